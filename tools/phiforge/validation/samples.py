"""Texts and conversations that tokenizers and chat templates stumble over."""

from __future__ import annotations

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's 3 o'clock; we've 1,234,567.89 reasons, don't we? (Yes!) [No?] {Maybe...}",
    "0 1 12 123 1234 12345 007 3.14159 1e-9 0xFF",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ --- ... ??? !!!",
    "def f(x):\n    return x ** 2  # square\n\n\nif __name__ == '__main__':\n\tprint(f(3))\n",
    '{"key": [1, 2.5, null, true], "text": "a\\nb"}',
    "<html><body class='x'>&amp; &lt;p&gt;</body></html>",
    "Grüße aus Köln, ça va très bien, mañana será otro día, żółć, İstanbul.",
    "Привет, мир. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया.",
    "你好,世界。 こんにちは世界。 안녕하세요 세계. สวัสดีชาวโลก",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 ©®™ ½ ² ∑ √ ≈ €",
    "e\u0301 \u00e9 \u00a0 \u200b \ufeff \u2028 \u2029 a\u0300b\u0301",
    "a  b   c    d     e",
    "  two before",
    "two after  ",
    "\ttab\t\ttabs\n\nlines\n\n\n\nmore\r\nwindows\r\n",
    "   \n   \n",
    "CamelCaseWords HTTPServer iPhone XMLHttpRequest ALLCAPS mixedCASE",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "https://example.org/a/b?c=d&e=f#g user@example.org C:\\path\\file.txt /usr/bin/env",
    "<|user|>Hi<|end|><|assistant|>Hello<|end|>",
    "<|system|>Be brief.<|end|>  <|user|>\n Hi \n<|end|>",
    "<think>One and one.</think>Two<|endoftext|>",
    "<|not_a_token|> <| user |> <|end| >",
)

_USER = {"role": "user", "content": "What is 2 + 3?"}
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [_USER],
    [{"role": "system", "content": "You are a helpful assistant."}, _USER],
    [_USER, {"role": "assistant", "content": "5"}, {"role": "user", "content": "And 4 + 4?"}],
    [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Ist das „schön“? 😀"},
        {"role": "assistant", "content": "Ja."},
        {"role": "user", "content": "  why\n\nso?  "},
    ],
    [{"role": "user", "content": 'quotes " and \\ and {{ braces }} and {% tags %}'}],
)
