"""Tokenizer against PyPI tokenizers, in the same run: encoding line by line on one thread, one line of a million letters,
and training a vocabulary of 4096. Times are processor seconds, so that other work on the machine counts little. deeptitan's
hold the whole program: start, reading the files, printing the ids as JSON; the peer's only the call itself.

    python benchmarks/peers/tokenizer.py build/release/deeptitan TEXT
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer, pre_tokenizers, trainers, models  # noqa: E402
import tokenizers  # noqa: E402


def processor_seconds(command, output):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(output, "w") as out:
        subprocess.run(command, check=True, stdout=out, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(what, megabytes, ours, theirs):
    print("%-28s deeptitan %8.3f s %7.1f MB/s   tokenizers %8.3f s %7.1f MB/s   %5.1f times" %
          (what, ours, megabytes / ours, theirs, megabytes / theirs, theirs / ours))


def compare_encoding(what, binary, model, path, scratch):
    ids_path = os.path.join(scratch, "ids")
    ours = processor_seconds([binary, "tokenizer", "encode", "--model", model, "--file", path], ids_path)
    peer = Tokenizer.from_file(os.path.join(model, "tokenizer.json"))
    with open(path, newline="\n") as text:
        lines = text.read().split("\n")
    if not lines[-1]:
        lines.pop()
    start = time.process_time()
    ids = [peer.encode(line, add_special_tokens=False).ids for line in lines]
    theirs = time.process_time() - start
    with open(ids_path) as printed:
        assert [json.loads(line) for line in printed] == ids, "the ids differ"
    report(what, os.path.getsize(path) / 1e6, ours, theirs)


def main(binary, path):
    print("tokenizers", tokenizers.__version__)
    with tempfile.TemporaryDirectory() as scratch:
        model = os.path.join(scratch, "model")
        ours = processor_seconds([binary, "tokenizer", "train", "--text", path, "--vocab-size", "4096", "--out", model],
                                 os.devnull)
        peer = Tokenizer(models.BPE())
        peer.pre_tokenizer = Tokenizer.from_file(os.path.join(model, "tokenizer.json")).pre_tokenizer
        trainer = trainers.BpeTrainer(vocab_size=4096, min_frequency=2, show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        start = time.process_time()
        peer.train([path], trainer)
        report("train 4096", os.path.getsize(path) / 1e6, ours, time.process_time() - start)
        compare_encoding("encode line by line", binary, model, path, scratch)
        letters = os.path.join(scratch, "letters")
        with open(letters, "w") as out:
            out.write("".join("abcdefghijklmnopqrstuvwxyz"[(i * i * 31 + i * 7) % 26] for i in range(1_000_000)) + "\n")
        compare_encoding("one line of 1e6 letters", binary, model, letters, scratch)


if __name__ == "__main__":
    main(*sys.argv[1:])
