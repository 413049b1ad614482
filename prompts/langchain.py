"""LangChain prompt templates: a question about an image, alone or in the middle of a conversation."""

from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from fourfold.prompts.tasks import INSTRUCTIONS, Task


def question_prompt(task: Task | None = None) -> ChatPromptTemplate:
    """One image and one question, as a runnable over `{"image_url": ..., "text": ...}`.

    Args:
        task: fills the task's canonical instruction with `text`; None passes `text` as it is. Caption and grounding
            need no `text`.

    Returns:
        A template whose value is one user message: an `image_url` part (a data URI, or a URL that the server may
        fetch), then the text.
    """
    words = "{text}" if task is None else f"{task.tag} {INSTRUCTIONS[task][0].replace('{box}', '{text}')}"
    parts = [{"type": "image_url", "image_url": {"url": "{image_url}"}}, {"type": "text", "text": words}]
    return ChatPromptTemplate([("user", parts)])


def conversation_prompt(system: str | None = None) -> ChatPromptTemplate:
    """System words, what was said so far and the new question, over `{"history": [...], "question": [...]}`.

    Args:
        system: instructions for the whole conversation, taken literally.

    Returns:
        A template with the placeholders `history` (may be absent) and `question`: a list of messages, so that a
        question can bring images of its own. Both pass through untouched.
    """
    messages: list[MessagesPlaceholder | tuple[str, str]] = [
        MessagesPlaceholder("history", optional=True),
        MessagesPlaceholder("question"),
    ]
    if system:
        messages.insert(0, ("system", system.replace("{", "{{").replace("}", "}}")))
    return ChatPromptTemplate(messages)
