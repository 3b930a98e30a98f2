"""Renders chat templates with jinja2 as transformers configures it, for tests/jinja/template_test.cpp.

    python3 tests/golden/chat_templates/make.py
    python3 tests/golden/chat_templates/make.py --published DIR --out FILE

The first writes cases.json: the hard cases of hard_cases.py, and the conversations below through the templates of this
folder, which write the turns of the DeepSeek families as the models' own templates do (made with jinja2 3.1.6 and
transformers 5.24.0). The second does the same for templates as published: every *.jinja and every tokenizer_config.json
anywhere below DIR. Run the test with DT_PUBLISHED_CHAT_TEMPLATES=FILE to compare those too; they are not kept here.
"""

import argparse
import datetime
import json
import pathlib
import re
import traceback
import unicodedata
import zlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

from hard_cases import CASES

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 9, 7, 5, 3)
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


CONVERSATIONS = {
    "one_question": [turn("user", "Hi")],
    "empty": [],
    "system_only": [turn("system", "Be brief.")],
    "two_turns": [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello!"), turn("user", "1 < 2 & 'q' \"q\"?")],
    "answered": [turn("user", "Hi"), turn("assistant", "Hello!")],
    "two_systems": [turn("system", "A"), turn("system", "B"), turn("user", "x"), turn("assistant", "y"), turn("system", "C")],
    "reasoning": [turn("user", "2+2?"), turn("assistant", "<think>\nadd\n</think>\n\n4"), turn("user", "sure?")],
    "two_reasonings": [turn("user", "q"), turn("assistant", "<think>a</think>b</think>c"), turn("user", "r"), turn("assistant", "plain")],
    "unicode": [turn("user", "你好\U0001f600 é\n\n  spaced  "), turn("assistant", "\u200bthere\t"), turn("user", "")],
    "tool_call": [
        turn("user", "weather?"),
        turn("assistant", None, tool_calls=[call("weather", '{"city": "Oslo"}')]),
        turn("tool", "cold"),
        turn("assistant", "It is cold."),
        turn("user", "thanks"),
    ],
    "two_tool_calls": [
        turn("system", "s"),
        turn("user", "weather?"),
        turn("assistant", None, tool_calls=[call("weather", '{"city": "Oslo"}'), call("weather", '{"city": "Rom"}')]),
        turn("tool", "cold"),
        turn("tool", "warm"),
    ],
    "tool_call_with_text": [
        turn("user", "weather?"),
        turn("assistant", "Let me look.", tool_calls=[call("weather", "{}"), call("time", "{}")]),
        turn("tool", "cold"),
        turn("assistant", "<think>x</think>Cold."),
    ],
    "content_missing": [turn("user", None)],
}


def variants():
    for name, messages in CONVERSATIONS.items():
        for prompt in (True, False):
            yield f"{name}/{'prompt' if prompt else 'no_prompt'}", {
                "messages": messages, "add_generation_prompt": prompt, "bos_token": BOS, "eos_token": EOS}
    yield "two_turns/unset", {"messages": CONVERSATIONS["two_turns"], "bos_token": BOS, "eos_token": EOS}
    yield "reasoning/thinking", {
        "messages": CONVERSATIONS["reasoning"], "add_generation_prompt": True, "thinking": True, "bos_token": BOS, "eos_token": EOS}


def render(template, variables):
    """{"expected": text} or {"error": message, "line": line}, the line as far as jinja2 knows it."""
    try:
        compiled = chat_template_utils._cached_compile_jinja_template(template)
        compiled.environment.globals["strftime_now"] = NOW.strftime
        return {"expected": compiled.render(**variables)}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"{type(error).__name__}: {error.message}", "line": error.lineno}
    except Exception as error:  # whatever a template can make Python raise
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == "<template>"]
        return {"error": f"{type(error).__name__}: {error}", "line": lines[-1] if lines else 0}


def case(name, template, variables):
    return {"name": name, "template": template, "variables": variables, **render(template, variables)}


def conversation_cases(name, template):
    """The conversations through one template, which the cases name; the conversations they name too."""
    for variant, variables in variants():
        named = dict(variables, messages=variant.split("/")[0])
        yield {"name": f"{name}:{variant}", "family": name, "variables": named, **render(template, variables)}


def published_templates(folder):
    for path in sorted(folder.rglob("*.jinja")):
        yield str(path.relative_to(folder)), path.read_text(encoding="utf-8")
    for path in sorted(folder.rglob("tokenizer_config.json")):
        value = json.loads(path.read_text(encoding="utf-8")).get("chat_template", [])
        several = [{"name": "default", "template": value}] if isinstance(value, str) else value
        for one in several:
            yield f"{path.parent.relative_to(folder)}/{one['name']}", one["template"]


def character_checksums():
    """CRC-32 of what each str method makes of every character that Unicode 14 (Python 3.11) assigns as Unicode 16 does."""
    header = (HERE.parents[2] / "src/tokenizer/unicode_additions.h").read_text(encoding="utf-8")
    later = re.findall(r'\{0x([0-9A-F]+), 0x([0-9A-F]+), "', header)
    changed = {c for first, last in later for c in range(int(first, 16), int(last, 16) + 1)}
    characters = [chr(c) for c in range(0x110000)
                  if unicodedata.category(chr(c)) not in ("Cn", "Cs") and c not in changed]

    def checksum(convert):
        return zlib.crc32("".join(convert(c) for c in characters).encode())

    tests = ["isprintable", "isspace", "isalnum"]
    sums = {name: checksum(lambda c, n=name: "1" if getattr(c, n)() else "0") for name in tests}
    return sums | {name: checksum(lambda c, n=name: getattr(c, n)()) for name in ["lower", "upper", "title"]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--published", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "cases.json")
    options = parser.parse_args()
    if options.published:
        families, cases = dict(published_templates(options.published)), []
    else:
        families = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.jinja"))}
        cases = [case(*hard) for hard in CASES]
    cases += [one for name, template in families.items() for one in conversation_cases(name, template)]
    result = {"jinja2": jinja2.__version__, "transformers": transformers.__version__,
              "characters": character_checksums(), "families": families, "conversations": CONVERSATIONS}
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in cases)
    head = json.dumps(result, ensure_ascii=False)[:-1]
    options.out.write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{options.out}: {len(cases)} cases")


if __name__ == "__main__":
    main()
