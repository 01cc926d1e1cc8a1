"""What a user's program does with the openai package; run by `test_clients` with its versions."""

import asyncio
import sys

import openai
import pydantic

MODEL = "echo"
HELLO = [{"role": "user", "content": "hello there"}]


class Place(pydantic.BaseModel):
    """A structured answer."""

    name: str
    height: int


def use(client: openai.OpenAI) -> None:
    """Plain, streamed, structured, with tools, embedded, refused."""
    plain = client.chat.completions.create(
        model=MODEL, messages=HELLO, extra_body={"t2l_description": "Greet back"}
    )
    said = plain.choices[0].message.content
    assert said.endswith("hello there"), said
    assert plain.t2l["adapter"] in said
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == "[base] hello there", text
    parsed = client.chat.completions.parse(model=MODEL, messages=HELLO, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(name="", height=0)
    tool = openai.pydantic_function_tool(Place, name="climb")
    called = client.chat.completions.parse(model=MODEL, messages=HELLO, tools=[tool])
    assert called.choices[0].message.tool_calls[0].function.parsed_arguments.height == 0
    with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[tool]) as events:
        assert events.get_final_completion().choices[0].finish_reason == "tool_calls"
    assert client.completions.create(model=MODEL, prompt="hi").choices[0].text == "[base] hi"
    vector = client.embeddings.create(model=MODEL, input="hi").data[0].embedding
    assert abs(sum(x * x for x in vector) - 1) < 1e-4
    assert MODEL in [model.id for model in client.models.list()]
    try:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
        told = ("answered", "")
    except openai.NotFoundError as error:
        told = (error.code, error.request_id[:4])
    assert told == ("model_not_found", "req_"), told


async def use_async(url: str) -> None:
    """The same, asynchronously, as far as it differs."""
    async with openai.AsyncOpenAI(base_url=url, api_key="-") as client:
        plain = await client.chat.completions.create(model=MODEL, messages=HELLO)
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == plain.choices[0].message.content


if __name__ == "__main__":
    with openai.OpenAI(base_url=sys.argv[1], api_key="-", max_retries=0) as client:
        use(client)
    asyncio.run(use_async(sys.argv[1]))
    print("openai", openai.__version__)
