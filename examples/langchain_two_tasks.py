"""
One chain, two tasks: each input is answered by the adapter of its own task.

    python examples/langchain_two_tasks.py

Runs in this process; for a server, leave out `router` and set T2L_BASE_URL.
"""

from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from integrations.langchain import ChatT2L, T2LAdapterSelector
from t2l_router import build_router
from t2l_router.config import load

TASKS = {
    "emotion": "Tell which emotion the sentence expresses, in one word.",
    "grammar": "Revise the sentence so that it has no mistakes in grammar or style.",
}
INPUTS = [
    {"kind": "emotion", "text": "i feel beaten down and nobody noticed"},
    {"kind": "grammar", "text": "If you find a hotel , it might be either to expensive ."},
    {"kind": "chat", "text": "Good morning!"},
]

llm = ChatT2L(router=build_router(load()), temperature=0, max_tokens=40)
prompt = ChatPromptTemplate([("user", "{text}")])
selector = T2LAdapterSelector(llm, lambda given: TASKS.get(given["kind"]))

# The selector says what would serve; bound to that choice, the model serves it.
chain = RunnablePassthrough.assign(choice=selector) | RunnableLambda(
    lambda given: prompt | llm.bind(**given["choice"].fields())
)

for given in INPUTS:
    answer = chain.invoke(given)
    facts = answer.response_metadata["t2l"]
    print(f"{given['kind']:<8} {facts['decision']:<10} {answer.content}")
llm.client.close()
