"""llama.cpp, through llama-cpp-python's bindings of its C interface: what it computes, and how fast.

usage: llama_cpp_peer.py logprobs FILE.gguf IDS.json f16|f32
       llama_cpp_peer.py decode|prefill FILE.gguf TOKENS STEPS on|off
       llama_cpp_peer.py generate FILE.gguf PROMPTS.jsonl SEQUENCES on|off

logprobs prints a JSON array: the natural logarithm of each id's probability given those before it, the first null, with
a cache of the given type. decode and prefill print a JSON object, timed as `deeptitan bench` times itself: three warm-up
steps, then STEPS timed ones, each a token after TOKENS in the cache, or TOKENS read at once into an empty cache; only
the last token's logits are asked for. generate continues every prompt of a file as `deeptitan generate --input` reads it
(prompt a list of ids, max_new_tokens), the likeliest token each time, SEQUENCES at once: one that ends makes room for the
next, whose prompt runs beside the others' tokens. Loading is not timed. The last argument is flash attention, the cache is llama.cpp's own choice, f16.
OMP_NUM_THREADS sets the threads.
"""
import ctypes
import json
import os
import statistics
import sys
import time

import llama_cpp
import numpy

THREADS = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
WARM_UP = 3


@llama_cpp.llama_log_callback
def only_errors(level, text, _):
    if level == 4:
        sys.stderr.write(text.decode())


class Model:
    def __init__(self, gguf, context, cache="f16", flash_attention=False, sequences=1):
        llama_cpp.llama_log_set(only_errors, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(gguf.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp cannot read {gguf}")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context * sequences
        parameters.n_batch = max(context, 2048) if sequences > 1 else context
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.type_k = parameters.type_v = {"f16": llama_cpp.GGML_TYPE_F16, "f32": llama_cpp.GGML_TYPE_F32}[cache]
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else \
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not self.context:
            sys.exit(f"llama.cpp cannot make a context of {context} tokens for {gguf}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def decode(self, batch):
        if llama_cpp.llama_decode(self.context, batch.batch) != 0:
            sys.exit("llama.cpp could not decode a batch")
        llama_cpp.llama_synchronize(self.context)

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)


class Batch:
    """Ids at the positions that follow those in the cache; the logits of the last, or of each, are computed."""

    def __init__(self, ids, each=False):
        # llama.cpp reads these arrays where they lie.
        self.ids = (llama_cpp.llama_token * len(ids))(*ids)
        self.logits = (ctypes.c_int8 * len(ids))(*[1] * len(ids))
        self.batch = llama_cpp.llama_batch_get_one(self.ids, len(ids))
        if each:
            self.batch.logits = self.logits


def logprobs(gguf, ids_path, cache):
    with open(ids_path) as file:
        ids = json.load(file)
    model = Model(gguf, len(ids), cache)
    rows = len(ids) - 1
    model.decode(Batch(ids[:-1], each=True))
    flat = llama_cpp.llama_get_logits(model.context)
    logits = numpy.ctypeslib.as_array(flat, (rows, model.vocabulary)).astype(numpy.float64)
    peaks = logits.max(axis=1)
    normalizers = peaks + numpy.log(numpy.exp(logits - peaks[:, None]).sum(axis=1))
    print(json.dumps([None, *(logits[numpy.arange(rows), ids[1:]] - normalizers)]))


class Sequences:
    """A batch of tokens of several sequences, with the logits of those that are asked for."""

    def __init__(self, model, most):
        self.model = model
        self.batch = llama_cpp.llama_batch_init(most, 0, 1)

    def run(self, tokens):
        """tokens: (id, position, sequence, whether its logits are wanted). The likeliest followers of those."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, wanted) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        if llama_cpp.llama_decode(self.model.context, batch) != 0:
            sys.exit("llama.cpp could not decode a batch")
        rows = sum(wanted for *_, wanted in tokens)
        logits = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits(self.model.context), (rows, self.model.vocabulary))
        return logits.argmax(axis=1).tolist()


def generate(gguf, path, sequences, flash_attention):
    with open(path) as file:
        requests = [json.loads(line) for line in file]
    longest = max(len(r["prompt"]) + r["max_new_tokens"] for r in requests)
    model = Model(gguf, longest, flash_attention=flash_attention, sequences=sequences)
    most = max(2048, sequences)
    batch = Sequences(model, most)
    memory = llama_cpp.llama_get_memory(model.context)
    waiting, free, running = list(reversed(requests)), list(range(sequences)), {}
    made = 0
    start = time.perf_counter()
    while waiting or running:
        tokens, order = [], []
        for place, (token, position, left) in running.items():
            tokens.append((token, position, place, 1))
            order.append((place, position, left))
        while waiting and free and len(tokens) + len(waiting[-1]["prompt"]) <= most:
            request, place = waiting.pop(), free.pop()
            ids = request["prompt"]
            tokens += [(token, i, place, int(i + 1 == len(ids))) for i, token in enumerate(ids)]
            order.append((place, len(ids) - 1, request["max_new_tokens"]))
        for (place, position, left), token in zip(order, batch.run(tokens), strict=True):
            made += 1
            if left > 1:
                running[place] = (token, position + 1, left - 1)
                continue
            running.pop(place, None)
            free.append(place)
            llama_cpp.llama_memory_seq_rm(memory, place, -1, -1)
    seconds = time.perf_counter() - start
    print(json.dumps({"bench": "generate", "peer": f"llama-cpp-python {llama_cpp.__version__}", "threads": THREADS,
                      "sequences": sequences, "flash_attention": flash_attention, "tokens": made, "seconds": seconds,
                      "tokens_per_second": made / seconds}))


def speed(mode, gguf, tokens, steps, flash_attention):
    model = Model(gguf, tokens + steps + WARM_UP, flash_attention=flash_attention)
    prompt = [(i * i * 977 + i * 31 + 5) % model.vocabulary for i in range(tokens)]
    decode = mode == "decode"
    if decode:
        model.decode(Batch(prompt))
    seconds = []
    for step in range(steps + WARM_UP):
        batch = Batch([prompt[step % tokens]] if decode else prompt)
        if not decode:
            model.clear()
        start = time.perf_counter()
        model.decode(batch)
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    print(json.dumps({"bench": mode, "peer": f"llama-cpp-python {llama_cpp.__version__}", "threads": THREADS,
                      "flash_attention": flash_attention, "tokens_per_second": (1 if decode else tokens) / median,
                      "step_seconds_median": median, "step_seconds_min": min(seconds), "step_seconds_max": max(seconds)}))


def main(mode, *arguments):
    if mode == "logprobs":
        logprobs(*arguments)
    elif mode == "generate":
        gguf, prompts, sequences, flash_attention = arguments
        generate(gguf, prompts, int(sequences), flash_attention == "on")
    else:
        gguf, tokens, steps, flash_attention = arguments
        speed(mode, gguf, int(tokens), int(steps), flash_attention == "on")


if __name__ == "__main__":
    main(*sys.argv[1:])
