// Arithmetic of a few rows in fp32 on a CPU: products with packed weights, norms, SwiGLU, attention over a cache.
//
// Nothing here allocates memory. A row is computed by the same instructions in the same order whatever rows are next to it,
// so a batch gives exactly the numbers of a row alone, and rows can be shared between threads.
//
// Shape letters: R rows, F feed-forward width, H heads, G key-value heads, S slots.

#pragma once

#include <cmath>
#include <cstring>

extern "C" {
#include "native.hpp"
}

namespace {

// Floats of a register, and how many rows' sums over a panel fill most registers. A vector wider than a register
// would live in memory: many times slower.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 3;
#else
constexpr int LANES = 4, ROWS = 2;
#endif
constexpr int PANEL = 32, PARTS = PANEL / LANES;
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

inline Lanes& lanes(float* at) { return *reinterpret_cast<Lanes*>(at); }
inline const Lanes& lanes(const float* at) { return *reinterpret_cast<const Lanes*>(at); }

inline float exponential(float x) {  // without a branch, so that loops become vector code; error 2e-7 at most
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = __builtin_floorf(x * 1.44269504f + 0.5f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int bits = (static_cast<int>(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return p * power;
}

inline float silu(float x) { return x / (1.0f + exponential(-x)); }

void rms_norm(const float* __restrict in, const float* __restrict weight, float eps, int n, float* __restrict out) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += in[i] * in[i];
    float scale = 1.0f / std::sqrt(sum / n + eps);
    if (weight)
        for (int i = 0; i < n; i++) out[i] = in[i] * scale * weight[i];
    else
        for (int i = 0; i < n; i++) out[i] = in[i] * scale;
}

void norm_rows(const float* in, const float* weight, float eps, int rows, int n, float* out) {
    for (long r = 0; r < rows; r++) rms_norm(in + r * n, weight, eps, n, out + r * n);
}

// Norms rows in place; `spare` has room for n numbers.
void norm_in_place(float* rows_of, const float* weight, float eps, int rows, int n, float* spare) {
    for (float* row = rows_of; row < rows_of + static_cast<long>(rows) * n; row += n) {
        rms_norm(row, weight, eps, n, spare);
        std::memcpy(row, spare, sizeof(float) * n);
    }
}

template <int rows>
inline void panel_product(const float* in, int stride, const float* panel, int n, float* out, int out_stride,
                          int used) {
    Lanes sum[rows][PARTS] = {};
    for (int k = 0; k < n; k++)
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS; p++) sum[r][p] += in[r * stride + k] * lanes(panel + k * PANEL + p * LANES);
    for (int r = 0; r < rows; r++)  // a size that is known needs no call
        std::memcpy(out + r * out_stride, sum[r], used == PANEL ? sizeof sum[r] : used * sizeof(float));
}

// out [R, weight.out] = in [R, weight.in] times the transposed weight; panel by panel, so that a weight is read once.
void product(const float* in, const Weight& weight, int rows, float* out) {
    for (int first = 0; first < weight.out; first += PANEL) {
        const float* panel = weight.panels + static_cast<long>(first) * weight.in;
        int used = weight.out - first < PANEL ? weight.out - first : PANEL;
        for (int r = 0; r < rows; r += ROWS) {
            const float* x = in + static_cast<long>(r) * weight.in;
            float* y = out + static_cast<long>(r) * weight.out + first;
            switch (rows - r < ROWS ? rows - r : ROWS) {
#define OF(count) case count: panel_product<count>(x, weight.in, panel, weight.in, y, weight.out, used); break;
                OF(1) OF(2) OF(3) OF(4) OF(5) OF(6) OF(7)
#undef OF
                default: panel_product<ROWS>(x, weight.in, panel, weight.in, y, weight.out, used);
            }
        }
    }
}

void add(float* __restrict to, const float* __restrict what, long n) {
    for (long i = 0; i < n; i++) to[i] += what[i];
}

// halves [R, 2 F], gate first -> [R, F] silu(gate) * up
void gated(const float* __restrict halves, int rows, int n, float* __restrict out) {
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < n; i++)
            out[static_cast<long>(r) * n + i] = silu(halves[2L * r * n + i]) * halves[(2L * r + 1) * n + i];
}

// SwiGLU of rows; out may be in. wide has room for three times the feed-forward width.
void feed_forward(const float* in, const Weight& gate_up, const Weight& down, int rows, float* wide, float* out) {
    float* gates = wide + static_cast<long>(rows) * gate_up.out;
    product(in, gate_up, rows, wide);
    gated(wide, rows, down.in, gates);
    product(gates, down, rows, out);
}

// [heads, width] rotated in place; half is width / 2 and the sine of a head's first half has its sign changed.
void rotate(float* head, int heads, int width, const float* cos, const float* sin, float* __restrict spare) {
    for (int h = 0; h < heads; h++, head += width) {
        std::memcpy(spare, head + width / 2, sizeof(float) * (width / 2));
        std::memcpy(spare + width / 2, head, sizeof(float) * (width / 2));
        for (int i = 0; i < width; i++) head[i] = head[i] * cos[i] + spare[i] * sin[i];
    }
}

// Prefetch n floats: heads alternate, so the processor does not see that rows are read in order.
void fetch(const float* from, long n) {
    for (long i = 0; i < n; i += 16) __builtin_prefetch(from + i);
}

// Attention of the heads of one row over keys and values [used, G, width]: out [H, width]. Positions are
// taken a few at a time for all heads, so that memory is read in order; sums stay in registers if the width is known.
template <int known>
void attend_by(const float* query, const float* keys, const float* values, int used, int H, int G, int any_width,
                      float scale, float* score_HS, float* out) {
    constexpr int FEW = 16;
    const int width = known ? known : any_width;
    const long apart = G * width;
    for (int first = 0; first < used; first += FEW) {
        fetch(keys + (first + FEW) * apart, FEW * apart);
        for (int h = 0; h < H; h++) {
            const float *q = query + h * width, *key = keys + first * apart + h / (H / G) * width;
            float* score = score_HS + static_cast<long>(h) * used + first;
            for (int s = 0; s < (used - first < FEW ? used - first : FEW); s++, key += apart) {
                float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
                for (int i = 0; i < width; i++) sum += q[i] * key[i];
                score[s] = sum * scale;
            }
        }
    }
    for (int h = 0; h < H; h++) {
        float *__restrict score = score_HS + static_cast<long>(h) * used, most = score[0], sum = 0.0f;
#pragma omp simd reduction(max : most)
        for (int s = 0; s < used; s++) most = score[s] > most ? score[s] : most;
#pragma omp simd reduction(+ : sum)
        for (int s = 0; s < used; s++) {
            score[s] = exponential(score[s] - most);
            sum += score[s];
        }
        for (int s = 0; s < used; s++) score[s] /= sum;
    }
    std::memset(out, 0, sizeof(float) * H * width);
    for (int first = 0; first < used; first += FEW) {
        fetch(values + (first + FEW) * apart, FEW * apart);
        for (int h = 0; h < H; h++) {
            const float *score = score_HS + static_cast<long>(h) * used + first;
            const float* value = values + first * apart + h / (H / G) * width;
            float sum[known ? known : 1], *__restrict to = known ? sum : out + h * width;
            if (known) std::memcpy(sum, out + h * width, sizeof sum);
            for (int s = 0; s < (used - first < FEW ? used - first : FEW); s++, value += apart)
                for (int i = 0; i < width; i++) to[i] += score[s] * value[i];
            if (known) std::memcpy(out + h * width, sum, sizeof sum);
        }
    }
}

void attend(const float* query, const float* keys, const float* values, int used, int H, int G, int width,
                   float scale, float* score_HS, float* out) {
    auto* by = width == 32 ? attend_by<32> : width == 64 ? attend_by<64> : width == 128 ? attend_by<128> : attend_by<0>;
    by(query, keys, values, used, H, G, width, scale, score_HS, out);
}

}  // namespace
