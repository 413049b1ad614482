from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from fourfold.prompts.langchain import conversation_prompt, question_prompt
from fourfold.prompts.tasks import Task, instruction

URL = "data:image/png;base64,AAAA"


def test_question_prompt_is_one_message_with_the_image_before_the_words():
    for task, text in [(Task.REFER, "the dog"), (Task.IDENTIFY, "{<1><2><3><4>}"), (Task.CAPTION, "")]:
        [message] = question_prompt(task).invoke({"image_url": URL, "text": text}).to_messages()
        assert isinstance(message, HumanMessage)
        assert message.content == [
            {"type": "image_url", "image_url": {"url": URL}},
            {"type": "text", "text": instruction(task, text)},
        ]


def test_question_prompt_without_a_task_passes_the_words():
    [message] = question_prompt().invoke({"image_url": URL, "text": "what {is} this?"}).to_messages()
    assert message.content[1] == {"type": "text", "text": "what {is} this?"}


def test_conversation_prompt_puts_system_history_and_question_in_order():
    history = [HumanMessage("{a}"), AIMessage("<p>b</p> {<1><2><3><4>}")]
    question = [HumanMessage([{"type": "image_url", "image_url": {"url": URL}}, {"type": "text", "text": "c"}])]
    prompt = conversation_prompt("answer as {json}")
    messages = prompt.invoke({"history": history, "question": question}).to_messages()
    assert messages == [SystemMessage("answer as {json}"), *history, *question]
    assert conversation_prompt().invoke({"question": question}).to_messages() == question
