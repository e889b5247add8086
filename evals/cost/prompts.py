"""Prompts, written for this project: English, code, other languages. Most of them stop inside a word.

A second set is full of white space, the hard case for bytes: the split of a run of it changes with each byte.
"""

from __future__ import annotations

import argparse

ENGLISH = (
    "The capital of Fra",
    "In 1969, the first person to wal",
    "Water boils at a temperature of 100 degr",
    "My favourite recipe begins with two cups of flo",
    "Dear Sir or Madam,\n\nI am writing to compl",
    "The mitochondria are the power",
    "She opened the old wooden door and fou",
    "According to the report, unemployment rose in the sec",
    "To install the program, first downl",
    "The three branches of government are the legisl",
    "Once upon a time there was a little gir",
    "Photosynthesis is the process by whi",
    "Q: What is the largest planet?\nA: The largest pla",
    "The stock market fell on Monday aft",
)
CODE = (
    "def fibonacci(n):\n    ret",
    'class Stack:\n    """A last-in, first-out stack."""\n\n    def __init__(self):\n        self.ite',
    "import numpy as np\n\ndef softmax(x):\n    e = np.ex",
    "#include <stdio.h>\n\nint main(void) {\n    print",
    "const express = require('express');\nconst app = expr",
    "SELECT name, COUNT(*) FROM orders GROUP B",
    "for i in range(10):\n    if i % 2 == 0:\n        pri",
    "public class Main {\n    public static void main(String[] arg",
    "fn main() {\n    let mut total = 0;\n    for i in 0..10 {\n        tot",
    "<html>\n<head>\n  <title>Home</tit",
    "try:\n    value = int(text)\nexcept Val",
    "def is_prime(n: int) -> bool:\n    if n < 2:\n        return Fal",
    "#!/bin/bash\nfor file in *.txt; do\n    ech",
    "func add(a int, b int) int {\n\tretu",
)
OTHER = (
    "La capitale de la France est Par",
    "Die Hauptstadt von Deutschland ist Ber",
    "El perro es el mejor amigo del hom",
    "Il Rinascimento nacque a Firen",
    "O Brasil é o maior país da América do Su",
    "Столица России — Моск",
    "日本の首都は東京で",
    "中国的首都是北京",
    "Η Αθήνα είναι η πρωτεύουσα της Ελλ",
    "Türkiye'nin başkenti Anka",
    "Stolicą Polski jest Warsz",
    "Sveriges huvudstad heter Stockh",
)
PROMPTS = (*(p for trio in zip(CODE, ENGLISH, OTHER, strict=False) for p in trio), *CODE[12:], *ENGLISH[12:])
WHITESPACE = (
    "def f(x):\n    if x:\n        return 1\n\n\n    ",
    '{\n  "a": {\n    "b": [\n      1,\n      2,\n   ',
    "name      age     city\nAda        36     London\nAlan       41  ",
    "\tif (a) {\n\t\tb();\n\t\t",
    "A line.\n\n\nAnother line.\n\n\n",
    "- one\n    - two\n        - three\n      ",
    "x = 1\r\n\r\ny = 2\r\n\r\n",
    "    |    |    |\n    |  x |    |\n    |    | ",
)
# Twenty of each, for what is measured on more of them. The ones above stay as they are: other results rest on them.
TWENTY_ENGLISH = (
    *ENGLISH,
    "The train was late, so we decided to wal",
    "In the beginning of the nineteenth cent",
    "Doctors recommend that adults sleep at least sev",
    "Thank you for your letter of 4 May. We are ple",
    "The museum is open every day except Mon",
    "Chapter 1\n\nThe village lay at the foot of the mount",
)
TWENTY_PYTHON = (
    *(prompt for prompt in CODE if prompt.startswith(("def ", "class ", "import ", "for ", "try:"))),
    "import json\n\nwith open('config.json') as handle:\n    config = js",
    "def read_lines(path):\n    with open(path) as file:\n        for line in fi",
    "from dataclasses import dataclass\n\n@dataclass\nclass Point:\n    x: flo",
    "import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_arg",
    "def merge_sort(items):\n    if len(items) <= 1:\n        return ite",
    "import unittest\n\nclass TestAdd(unittest.TestCase):\n    def test_add(self):\n        self.assertEq",
    "numbers = [1, 2, 3, 4]\nsquares = [n * n for n in num",
    "import re\n\npattern = re.comp",
    "def main():\n    print('Hello')\n\n\nif __name__ == '__ma",
    "import os\n\nfor name in os.listdir('.'):\n    if name.endsw",
    "class Node:\n    def __init__(self, value, next=None):\n        self.value = val",
    "from collections import defaultdict\n\ncounts = defaultd",
    "async def fetch(session, url):\n    async with session.get(url) as resp",
    "def gcd(a, b):\n    while b:\n        a, b = b, a %",
)
# One prompt of 4 kB.
LONG = "\n\n".join(PROMPTS * (1 + 4096 // sum(map(len, PROMPTS))))[:4096]
BYTES_PER_TOKEN = 3.3  # of the text after the prompts, for a generation that takes a number of tokens
KINDS = {"ordinary": PROMPTS, "white-space": WHITESPACE}


def add_prompt_options(parser: argparse.ArgumentParser, *, size: int = 100, limit: int = 5) -> None:
    """``--bytes`` and ``--limit``, with these defaults."""
    parser.add_argument(
        "--bytes", type=int, default=size, metavar="N", help="bytes to write after each prompt (default %(default)s)"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=limit,
        metavar="N",
        help=f"how many of the {len(PROMPTS)} prompts to use (default %(default)s)",
    )
