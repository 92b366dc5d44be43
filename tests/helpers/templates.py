"""Chat templates of the kinds in use, and tokenizers to go with them, for the tests of rendering."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# a default system prompt, as some models of this kind have
CHATML_DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}" + CHATML
)
# the same with the assistant's words marked
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GENERATION_UNMARKED = GENERATION.replace("{% generation %}", "").replace("{% endgeneration %}", "")
LLAMA2 = (
    "{% set ns = namespace(system='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.system = '<<SYS>>\n' + m['content'] + '\n<</SYS>>\n\n' %}{% elif m['role'] == 'user' %}"
    "{{ bos_token }}[INST] {{ ns.system + m['content'].strip() }} [/INST]{% set ns.system = '' %}"
    "{% else %} {{ m['content'].strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# an empty thinking block before the last answer, none before earlier ones; reasoning in an answer is put into the block
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% set thought = '' %}{% set words = m['content'] %}{% if '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ words }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# the system's words stand in the last user's turn
LATE_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST]"
    "{% if messages[0]['role'] == 'system' and (messages | selectattr('role', 'equalto', 'user') | list)[-1] == m %}"
    "{{ messages[0]['content'] }}\n\n{% endif %}{{ m['content'] }}[/INST]"
    "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
# no special token but the end of the chat, and no BOS
PLAIN = (
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] }}"
    "{% if loop.last and m['role'] == 'assistant' %}{{ eos_token }}{% else %}\n\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
# nothing behind an answer but the next role's mark, at which the model stops; thoughts of earlier turns are emptied
NEXT_ROLE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|bot|>\n"
    "{% set words = m['content'] %}{% set thought = m['reasoning_content'] or '' %}{% if '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].split('<think>')[-1] %}"
    "{% set words = words.split('</think>')[-1] %}{% endif %}"
    "{% if loop.last and thought %}<think>{{ thought.strip() }}</think>{% else %}<think></think>{% endif %}\n"
    "{{ words.strip() }}{% else %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>"
    "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking }}{% endif %}"
)
# the answer's own closing token, then the one that ends the turn
TWO_ENDS = (
    "{{ bos_token }}{% for m in messages %}<|turn|>{% if m['role'] == 'assistant' %}<|bot|><|text|>{{ m['content'] }}"
    "<|close|>{% else %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|turn|><|bot|><|text|>{% endif %}"
)
# a token ends each turn, another one the text
END_OF_TEXT = (
    "{% for m in messages %}<|{{ m['role'] if m['role'] != 'assistant' else 'bot' }}|>\n{{ m['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|bot|>\n{% else %}{{ eos_token }}{% endif %}"
)
# a turn ends otherwise within a chat than at its end, and an answer has a channel; a thought is a turn of its own
CHANNELS = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "{% if loop.last and m['thinking'] %}<|turn|>bot<|text|>think<|message|>{{ m['thinking'] }}<|end|>{% endif %}"
    "<|turn|>bot<|text|>say<|message|>{{ m['content'] }}{{ '<|close|>' if loop.last else '<|end|>' }}"
    "{% else %}<|turn|>{{ m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>bot{% endif %}"
)
# thoughts are left out of earlier turns; with `enable_thinking` false the prompt has an empty one
EARLIER_UNTHOUGHT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}{% elif m['reasoning_content'] %}"
    "<think>\n{{ m['reasoning_content'] }}\n</think>\n\n{{ m['content'] }}{% else %}{{ m['content'] }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# the prompt opens a thought, and every last answer has one, be it empty
OPENED_ALWAYS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% set words = m['content'] %}{% set thought = m['reasoning_content'] or '' %}{% if '</think>' in words %}"
    "{% set thought = words.split('</think>')[0].split('<think>')[-1].strip() %}"
    "{% set words = words.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ words }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
# the prompt opens a thought, and answers are rendered without theirs
OPENED_UNTHOUGHT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|bot|>{{ m['content'].split('</think>')[-1].strip() }}"
    "{{ eos_token }}{% else %}<|{{ m['role'] }}|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|bot|><think>\n{% endif %}"
)
# the prompt opens a thought with a line, answers without one have an empty one in the same line
OPENED_OTHERWISE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% if m['reasoning_content'] %}<think>\n{{ m['reasoning_content'] }}\n</think>\n"
    "{% elif '</think>' not in m['content'] %}<think></think>{% endif %}"
    "{% if loop.last %}{{ m['content'] }}{% else %}{{ '<think></think>' if '</think>' in m['content'] }}"
    "{{ m['content'].split('</think>')[-1].strip() }}{% endif %}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think></think>' if enable_thinking is defined and not enable_thinking else '<think>\n' }}{% endif %}"
)
SPECIAL = (
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|turn|>", "<|user|>", "<|bot|>", "<|text|>", "<|close|>", "<|end|>",
    "<|message|>",
)  # fmt: skip
ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>")
CORPUS = [
    "Hello there. Hello you, how are you today? I am fine. The capital of France is Paris: Paris is nice.",
    "### user:\nHello\n\n### assistant:\n\nHello there\n\n\nuser assistant system model Assistant: Yes",
]


def _fast(core: Tokenizer, template: str | None, adds_bos: bool) -> PreTrainedTokenizerFast:
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    # the token that ends a turn, as in models in use
    eos = next((token for token in ENDS if token in (template or "")), "</s>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=eos, pad_token="<pad>", chat_template=template
    )


def byte_level(
    template: str | None, adds_bos: bool = False, trim_offsets: bool = False, merges: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE as of GPT-2, Llama 3 and Qwen, whose merges take a leading space or line break along."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = 400 if merges else len(alphabet)
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    fast = _fast(core, template, adds_bos)
    if trim_offsets:
        fast.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return fast


def sentence_piece(template: str | None, legacy: bool, adds_bos: bool = True) -> PreTrainedTokenizerFast:
    """A BPE as of Llama 2 and Mistral: a space is `▁`, one is put before a text (`legacy`: before each part of it)."""
    core = Tokenizer(models.BPE(byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    if legacy:
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [text.replace(" ", "▁") for text in " ".join(CORPUS).split("\n")]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=bytes_, initial_alphabet=list("[]/<>|SYINT"), show_progress=False
    )
    core.train_from_iterator(words, trainer)
    return _fast(core, template, adds_bos)
