"""
Retrieval as usual; the style of the answer comes from an adapter instead of the prompt.

    python examples/langchain_rag_style.py "When does the office open?"
"""

import sys

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from integrations.langchain import ChatT2L
from t2l_router import build_router
from t2l_router.config import load

HANDBOOK = [
    Document("The office opens at 8:30 on weekdays and stays closed on public holidays."),
    Document("Expenses are refunded within ten days if the receipt is attached."),
    Document("Visitors get a badge at the reception and leave it there when they go."),
]
STYLES = {
    "brief": "Answer the question from the passage in at most five words.",
    "friendly": "Answer the question from the passage in a warm and friendly tone.",
}


def retrieve(question: str) -> str:
    """The passage that shares most words with the question."""
    asked = set(question.lower().strip("?").split())
    best = max(HANDBOOK, key=lambda doc: len(asked & set(doc.page_content.lower().split())))
    return best.page_content


llm = ChatT2L(router=build_router(load()), temperature=0, max_tokens=40)
prompt = ChatPromptTemplate([("user", "Passage: {passage}\nQuestion: {question}")])
question = sys.argv[1] if len(sys.argv) > 1 else "When does the office open?"

for style, description in STYLES.items():
    chain = (
        {"passage": RunnableLambda(retrieve), "question": RunnablePassthrough()}
        | prompt
        | llm.bind(t2l_description=description)
        | StrOutputParser()
    )
    print(f"{style}: {chain.invoke(question)}")
llm.client.close()
