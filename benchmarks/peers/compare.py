"""deeptitan against PyTorch (training) and llama.cpp (decode, prefill), shape by shape, in one run.

usage: PEERS/bin/python benchmarks/peers/compare.py BINARY [--rounds N] [--steps N]
BINARY is deeptitan; PEERS the environment that make_environment made. First a model of random weights is written and its
log-probabilities are compared, since a ratio between different computations says nothing. Then, --rounds times, each
program runs by itself, ours and the peer's in turn, on as many threads (OMP_NUM_THREADS, else every core). Prints a JSON
line for each run, and at the end one for each ratio of the medians over the rounds, with the shares of the machine's peak
(memory bandwidth for decode, else matrix products) that deeptitan measured beside its own runs.
"""
import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.normpath(os.path.join(HERE, "..", "..", "configs"))
THREADS = os.environ.get("OMP_NUM_THREADS") or str(len(os.sched_getaffinity(0)))
TOKENS, GENERATED = "512", "64"
CHECKED_IDS = 257
# Where both compute in fp32 only the order of sums differs.
LARGEST_DIFFERENCE_F32 = 1e-4
# In bf16 the median holds: a router's near tie that falls the other way moves single tokens by more.
MEDIAN_DIFFERENCE_BF16 = 0.02


def output_of(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def script(name, *arguments):
    return output_of(sys.executable, os.path.join(HERE, name), *arguments)


def report(line):
    print(json.dumps(line), flush=True)


def check_same(binary, model, gguf, ids, ours_dtype, cache):
    ours = json.loads(output_of(binary, "eval", "--model", model, "--token-ids", ids, "--dtype", ours_dtype, "--json"))
    theirs = json.loads(script("llama_cpp_peer.py", "logprobs", gguf, ids, cache))
    differences = [abs(a - b) for a, b in zip(ours["logprobs"][1:], theirs[1:], strict=True)]
    line = {"check": "log-probabilities, deeptitan and llama.cpp", "dtype": ours_dtype, "tokens": len(differences),
            "difference_median": statistics.median(differences), "difference_max": max(differences),
            "spread_of_logprobs": statistics.pstdev(ours["logprobs"][1:])}
    report(line)
    if (ours_dtype == "f32" and line["difference_max"] > LARGEST_DIFFERENCE_F32) or \
            line["difference_median"] > MEDIAN_DIFFERENCE_BF16:
        sys.exit("deeptitan and llama.cpp do not compute the same on this model: no ratio between them is printed")


def prepare_model(binary, folder):
    """Writes the shape wide for both programs, checks that they compute the same; the directory and the bf16 GGUF."""
    model, ids, gguf = (os.path.join(folder, name) for name in ("wide", "ids.json", "wide.gguf"))
    script("write_model.py", "wide", model)
    with open(ids, "w") as file:
        json.dump([(i * i * 977 + i * 31 + 5) % 4096 for i in range(CHECKED_IDS)], file)
    script("convert_to_gguf.py", model, gguf, "f32")
    check_same(binary, model, gguf, ids, "f32", "f32")
    os.remove(gguf)
    script("convert_to_gguf.py", model, gguf, "bf16")
    check_same(binary, model, gguf, ids, "bf16", "f16")
    return model, gguf


class Comparison:
    def __init__(self, binary, steps):
        self.binary = binary
        self.steps = str(steps)
        self.speeds = {}
        self.shares = {}

    def add(self, what, program, line):
        self.speeds.setdefault((what, program), []).append(line["tokens_per_second"])
        line.pop("ops", None)
        report({"measured": what, "program": program, **line})

    def ours(self, what, *arguments):
        line = json.loads(output_of(self.binary, "bench", *arguments, "--json"))
        self.shares.setdefault(what, []).append(line["share_of_peak"])
        self.add(what, "deeptitan", line)

    def pytorch(self, shape, steps):
        """In both precisions in the first round, then in the one that was the faster."""
        what = f"training, {shape}"
        dtypes = ("fp32", "bf16")
        if (what, "PyTorch bf16") in self.speeds:
            dtypes = (max(dtypes, key=lambda dtype: self.speeds[what, f"PyTorch {dtype}"][0]),)
        for dtype in dtypes:
            self.add(what, f"PyTorch {dtype}", json.loads(script("train_transformers.py", shape, dtype, steps)))

    def llama_cpp(self, mode, gguf, steps):
        """With and without flash attention, since neither is always the faster."""
        for flash_attention, program in (("off", "llama.cpp"), ("on", "llama.cpp, flash attention")):
            line = json.loads(script("llama_cpp_peer.py", mode, gguf, TOKENS, steps, flash_attention))
            self.add(f"{mode}, wide", program, line)

    def round(self, model, gguf):
        for mode, steps in (("decode", GENERATED), ("prefill", self.steps)):
            self.ours(f"{mode}, wide", mode, model, "--dtype", "bf16", "--tokens", TOKENS, "--steps", steps)
            self.llama_cpp(mode, gguf, steps)
        for shape in ("small", "wide"):
            self.ours(f"training, {shape}", "train", os.path.join(CONFIGS, f"bench_{shape}.toml"), "--steps", self.steps)
            self.pytorch(shape, self.steps if shape == "small" else "3")

    def ratios(self):
        for what in dict.fromkeys(what for what, _ in self.speeds):
            medians = {program: statistics.median(speeds) for (w, program), speeds in self.speeds.items() if w == what}
            ours = medians.pop("deeptitan")
            peer = max(medians, key=medians.get)
            ratio = ours / medians[peer]
            share = statistics.median(self.shares[what])
            report({"ratio": f"{what}: deeptitan to {peer}", "value": ratio, "deeptitan": ours, "peer": medians[peer],
                    "deeptitan_share_of_peak": share, "peer_share_of_peak": share / ratio})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    comparison = Comparison(arguments.binary, arguments.steps)
    # Leave nothing of the model behind when stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(dir=sys.prefix) as folder:
        model, gguf = prepare_model(arguments.binary, folder)
        for _ in range(arguments.rounds):
            comparison.round(model, gguf)
    comparison.ratios()


if __name__ == "__main__":
    main()
