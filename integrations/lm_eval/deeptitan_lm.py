"""deeptitan as a model of EleutherAI's lm-evaluation-harness.

Import this file, then call lm_eval.simple_evaluate(model="deeptitan", model_args={"model": "MODEL_DIRECTORY"}, ...), or
run it in place of lm_eval:

    PYTHONPATH=integrations/lm_eval python3 -m deeptitan_lm run --model deeptitan --model_args model=DIR --tasks ...

The program is started once (`deeptitan eval --requests -`) and answers every request of the run over its pipes.
"""

import json
import subprocess
import threading

from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model


@register_model("deeptitan")
class DeeptitanLM(TemplateLM):
    """Arguments: model (a Hugging Face directory), program (deeptitan's path), dtype (auto, bf16 or f32), max_length
    (tokens of context; the model's own, at most 8192, where it is not given), max_gen_toks, add_bos_token (true or false
    in place of what the tokenizer's files say)."""

    def __init__(self, model=None, pretrained=None, program="deeptitan", dtype="auto", max_length=None,
                 max_gen_toks=256, add_bos_token=None, batch_size=None, max_batch_size=None, device=None):
        super().__init__()
        directory = model or pretrained
        if directory is None:
            raise ValueError("deeptitan: model_args names no model; give model=DIRECTORY")
        command = [program, "eval", "--model", str(directory), "--dtype", dtype, "--requests", "-"]
        if max_length is not None:
            command += ["--context", str(max_length)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self._info = self._ask([{"info": True}])[0]
        self._directory = str(directory)
        self._add_bos = add_bos_token if add_bos_token is None or isinstance(add_bos_token, bool) else (
            str(add_bos_token).lower() == "true")
        self.max_length = self._info["context"]
        self.max_gen_toks = int(max_gen_toks)

    def _ask(self, requests):
        """The answers to requests, in order. They are written beside the reading, or both pipes could fill up."""
        if not requests:
            return []

        def write():
            try:
                for request in requests:
                    self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            except BrokenPipeError:
                pass  # the program has ended; what it did not answer is reported below

        writer = threading.Thread(target=write)
        writer.start()
        answers = []
        for _ in requests:
            line = self._process.stdout.readline()
            if not line:
                break
            answers.append(json.loads(line))
        writer.join()
        if len(answers) < len(requests):
            raise RuntimeError(
                f"deeptitan ended with exit code {self._process.wait()} after {len(answers)} of {len(requests)} answers; "
                "its last line above says why")
        return answers

    def close(self):
        """Ends the program."""
        if self._process.poll() is None:
            self._process.stdin.close()
            self._process.wait()

    def __del__(self):
        if hasattr(self, "_process"):
            self.close()

    @property
    def eot_token_id(self):
        return self._info["eos_token_id"]

    @property
    def prefix_token_id(self):
        bos = self._info["bos_token_id"]
        return self._info["eos_token_id"] if bos is None else bos

    @property
    def tokenizer_name(self):
        return self._directory.replace("/", "__")

    def _encode_all(self, strings, add_special_tokens=None):
        bos = self._info["bos_token_id"]
        spelt = self._ask([{"decode": [bos], "skip_special_tokens": False}])[0]["text"] if bos is not None else None
        requests = []
        for string in strings:
            special = add_special_tokens
            if special is None:
                special = True if self._add_bos is None else self._add_bos
                if spelt and string.startswith(spelt):
                    special = False
            requests.append({"encode": string, "add_special_tokens": special})
        return [answer["tokens"] for answer in self._ask(requests)]

    def tok_encode(self, string, add_special_tokens=None, **kwargs):
        return self._encode_all([string], add_special_tokens)[0]

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, **kwargs):
        # One context's continuations one after another, so that it is run once.
        order = sorted(range(len(requests)), key=lambda i: (requests[i][1], requests[i][2]))
        answers = self._ask([{"context": requests[i][1], "continuation": requests[i][2]} for i in order])
        scores = [None] * len(requests)
        for i, answer in zip(order, answers):
            scores[i] = (answer["logprob"], answer["is_greedy"])
            if requests[i][0] is not None:
                self.cache_hook.add_partial("loglikelihood", requests[i][0], scores[i])
        return scores

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        windows, counts = [], []
        for tokens in self._encode_all([request.args[0] for request in requests]):
            of_text = [
                (None, *utils.make_disjoint_window(window)) for window in utils.get_rolling_token_windows(
                    token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1)
            ]
            windows += of_text
            counts.append(len(of_text))
        scores = iter(self._loglikelihood_tokens(windows))
        sums = [sum(next(scores)[0] for _ in range(count)) for count in counts]
        for request, total in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests, disable_tqdm=False):
        prompts = self._encode_all([request.args[0] for request in requests])
        asked = []
        for prompt, request in zip(prompts, requests):
            options = dict(request.args[1])
            until = options.pop("until", None) or []
            until = [until] if isinstance(until, str) else until
            length = int(options.pop("max_gen_toks", options.pop("max_new_tokens", self.max_gen_toks)))
            room = self.max_length - length
            if room <= 0:
                raise ValueError(f"deeptitan: max_gen_toks {length} leaves no room in a context of {self.max_length}")
            temperature = float(options.get("temperature") or 0.0) if options.pop("do_sample", None) is not False else 0.0
            message = {"prompt": prompt[-room:], "max_new_tokens": length, "temperature": temperature}
            # Several strings that begin at one place: the harness takes what stands before each of them.
            message["stop"] = [string for string in until if string]
            for name in ("top_k", "top_p", "min_p", "repetition_penalty", "seed"):
                if options.get(name) is not None:
                    message[name] = options[name]
            asked.append(message)
        texts = []
        for request, answer in zip(requests, self._ask(asked)):
            texts.append(answer["text"])
            self.cache_hook.add_partial("generate_until", request.args, answer["text"])
        return texts

    def chat_template(self, chat_template=False):
        return "the model's own" if chat_template else None

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return self._ask([{"render": chat_history, "add_generation_prompt": add_generation_prompt}])[0]["text"]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
