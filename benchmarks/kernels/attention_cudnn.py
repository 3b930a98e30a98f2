"""Times cuDNN's attention through PyTorch on a GPU, forward and backward, for attention_benchmark and
attention_backward_benchmark: 16 heads of 192 and 128, causal, bf16. TFLOP/s are counted as they count them."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

HEADS, KEY, VALUE = 16, 192, 128


def median_ms(run, flush, runs=30):
    for _ in range(5):
        run()
    times = []
    for _ in range(runs):
        flush.zero_()  # the second-level cache
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[runs // 2]


def rows(batch, length, width):
    shape = (batch, length, HEADS, width)
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).transpose(1, 2).requires_grad_(True)


def main():
    print(torch.cuda.get_device_name(0), "PyTorch", torch.__version__, "cuDNN", torch.backends.cudnn.version())
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    for batch, length in ((4, 4096), (1, 8192), (1, 16384), (1, 512), (281, 58)):
        query, key, value = (rows(batch, length, width) for width in (KEY, KEY, VALUE))
        pairs = batch * length * (length + 1) / 2
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            out = scaled_dot_product_attention(query, key, value, is_causal=True)
            d_out = torch.randn_like(out)
            forward = median_ms(lambda: scaled_dot_product_attention(query, key, value, is_causal=True), flush)
            backward = median_ms(
                lambda: torch.autograd.grad(out, (query, key, value), d_out, retain_graph=True), flush)
        for name, ms, width in (("forward", forward, KEY + VALUE), ("backward", backward, 3 * KEY + 2 * VALUE)):
            tflops = 2 * pairs * HEADS * width / ms / 1e9
            print(f"{name}, cuDNN, {batch} x {length}: {1000 * ms:.2f} us, {tflops:.1f} TFLOP/s", flush=True)


if __name__ == "__main__":
    main()
