import json
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from app.config import ROOT, settings
from app.models.chat_template import ChatTemplate, ChatTemplateError, load
from tests.models.chat_templates import HEADERS, TEMPLATES

pytestmark = pytest.mark.timeout(400)  # importing torch on a busy machine

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "天气 <b> & 'more'",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["a", "北京"]}},
                "required": ["city"],
            },
        },
    }
]


def user(content):
    return {"role": "user", "content": content}


def answer(content, **more):
    return {"role": "assistant", "content": content, **more}


SYSTEM = {"role": "system", "content": " Be 'kind' & \"brief\". "}
CALL = {"function": {"name": "weather", "arguments": {"city": "北京", "n": [1, 2.5, None, True]}}}
RESULT = {"role": "tool", "content": '{"t": 21}', "name": "weather"}
CONVERSATIONS = [
    ([user("hi")], None),
    ([user(" 你好\n\n"), answer("\n <b>好</b>的 ")], None),
    ([SYSTEM, user("a"), answer("b"), user("c"), answer("d")], None),
    ([SYSTEM, user("a"), answer("", tool_calls=[CALL]), RESULT, RESULT, answer("ok")], TOOLS),
    ([user("a"), answer(None, tool_calls=[CALL]), RESULT], TOOLS),
    ([user("a"), answer("", tool_calls=[CALL, CALL])], TOOLS),
    ([user("a"), answer("<think>\nhm\n</think>\n\nb"), user("c"), answer("d")], None),
    ([user("a"), answer("b", reasoning_content="because"), user("c")], None),
    ([user("a"), answer("b", reasoning="because")], None),
    ([user([{"type": "text", "text": " one "}, {"type": "image"}]), answer("x")], None),
    ([user("a"), user("b")], None),
    ([answer("hello"), user("a")], None),
    ([user("𝄞 emoji 🎉 <|im_end|> <s>")], None),
]


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """Where the tokenizers are, the cases, and what transformers made of each."""
    directory = tmp_path_factory.mktemp("templates")
    cases = [
        (name, messages, tools, prompt)
        for name in TEMPLATES
        for messages, tools in CONVERSATIONS
        for prompt in (False, True)
    ]
    done = subprocess.run(
        [settings.train_python, ROOT / "tests/models/template_oracle.py", directory],
        input=json.dumps({"templates": TEMPLATES, "cases": cases}),
        capture_output=True,
        text=True,
        check=True,
    )
    return directory, list(zip(cases, json.loads(done.stdout), strict=True))


def test_renders_what_transformers_renders(oracle):
    directory, cases = oracle
    refused = 0
    for (name, messages, tools, prompt), wanted in cases:
        try:
            text = load(directory / name).render(messages, tools, add_generation_prompt=prompt)
        except ChatTemplateError:
            text = None
            refused += 1
        assert text == (wanted and wanted[0]), (name, messages)
    assert 0 < refused < len(cases) / 3


def test_the_rendered_text_gives_the_same_tokens(oracle):
    directory, cases = oracle
    for (name, messages, tools, prompt), wanted in cases:
        if wanted:
            text = load(directory / name).render(messages, tools, add_generation_prompt=prompt)
            tokenizer = Tokenizer.from_file(str(directory / name / "tokenizer.json"))
            assert tokenizer.encode(text, add_special_tokens=False).ids == wanted[1]


def test_the_present_can_be_fixed():
    template = ChatTemplate(HEADERS, None, {"bos_token": ""})
    text = template.render([user("a")], now=datetime(2024, 7, 26))
    assert "Today: 26 Jul 2024" in text


def test_load_finds_templates_and_special_tokens(tmp_path):
    assert load(tmp_path) is None
    config = {
        "chat_template": [
            {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"},
            {"name": "tool_use", "template": "tools"},
        ],
        "bos_token": {"content": "<s>", "special": True},
        "pad_token": None,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    template = load(tmp_path)
    assert template.render([user("a")]) == "<s></s>"
    assert template.render([user("a")], TOOLS) == "tools"
    (tmp_path / "chat_template.jinja").write_text("file")
    assert load(tmp_path).render([user("a")]) == "file"


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": "["},
        {"tokenizer_config.json": "[]"},
        {"tokenizer_config.json": '{"chat_template": [{"name": "other", "template": ""}]}'},
        {"tokenizer_config.json": '{"chat_template": 3}'},
        {"chat_template.jinja": b"\xff"},
    ],
)
def test_load_refuses_what_it_cannot_read(files, tmp_path: Path):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ChatTemplateError):
        load(tmp_path)


@pytest.mark.parametrize("source", ["{% if %}", "{{ messages[ }}", "{% nonsense %}", "{{ a.b.c }}"])
def test_broken_templates_are_the_users_error(source):
    with pytest.raises(ChatTemplateError) as caught:
        ChatTemplate(source).render([user("a")])
    assert caught.value.status == 422
    assert caught.value.params["reason"]


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ raise_exception.__globals__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum() }}",
    "{{ namespace(__class__=1) }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.x.y }}",
    "{{ dict.__class__.__base__.__subclasses__() }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ ['{0.__class__.__mro__}'.format][0]('')|attr('format') }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_out_of_the_sandbox(source):
    messages = [user("a")]
    try:
        text = ChatTemplate(source).render(messages)
    except ChatTemplateError:
        text = ""  # refused; what is merely not there renders as nothing
    assert not text
    assert messages == [user("a")]


DOUBLED = [  # what a loop may do to a text, or to a list
    "{% set ns.s = ns.s ~ ns.s %}",
    "{% set ns.s = ns.s + ns.s %}",
    "{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}",
    "{% set ns.s = ns.s|replace('a', 'aa') %}",
    "{% set ns.s = ns.s.replace('a', 'aa') %}",
    "{% set ns.s = [ns.s, ns.s]|join %}",
    "{% set ns.s = ns.s.join([ns.s, ns.s]) %}",
    "{% set ns.s = '%s%s' % (ns.s, ns.s) %}",
    "{% set ns.s = '{}{}'.format(ns.s, ns.s) %}",
    "{% set ns.s = '%s%s'|format(ns.s, ns.s) %}",
    "{% set ns.n = ns.n * ns.n %}",
    "{% set ns.l = ns.l + ns.l %}",
]
PRINTED = ["{{ ns.l }}", "{{ ns.l|tojson }}", "{{ ns.l|string }}", "{{ '%s' % ns.l }}"]
PRINTED += ["{{ '' ~ ns.l }}", "{{ ns.l|join }}", "{{ '{}'.format(ns.l) }}", "{{ ns.l|upper }}"]
PRINTED += ["{{ ns.l|pprint }}", "{{ ns.l|sum(start=[]) }}", "{{ [ns.l]|map('string')|list }}"]
START = "{% set ns = namespace(s='aa', n=2, l=[1]) %}{% for i in range(99) %}"
HUNGRY = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ range(99999)|list|length }}{% endfor %}",
    "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(60) }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{{ 'a' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ ['a' * 10**6] * 10**5 }}",
    "{{ [{'a': 'a' * 10**6}] * 10**5 }}",
    "{{ 10 ** (10 ** 10) }}",
    *(START + double + "{% endfor %}" for double in DOUBLED),
    *(START + "{% set ns.l = [ns.l, ns.l] %}{% endfor %}" + printed for printed in PRINTED),
    "{{ 'a'|center(10**9) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.rjust(width=1000000000) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%1000000000d'|format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 1000000000) }}",
    "{{ messages|tojson(indent=1000000000) }}",
    "{{ 'a\n'|indent(1000000000) }}",
    "{{ [1]|batch(1000000000, 0)|list }}",
    "{{ 1 ~ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "x" * 300_000,
]


@pytest.mark.parametrize("source", HUNGRY)
def test_time_and_memory_are_limited(source, monkeypatch):
    monkeypatch.setattr("app.models.chat_template.SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render([user("a")])
    assert time.monotonic() - began < 5


def test_a_long_conversation_is_not_too_much():
    messages = [user("长" * 100_000), answer("b" * 100_000)] * 20
    text = ChatTemplate(TEMPLATES["chatml"]).render(messages)
    assert len(text) > 4_000_000
