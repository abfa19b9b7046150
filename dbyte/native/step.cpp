// One byte through a stack of Mamba2 blocks and one position through a core, in fp32 on a CPU, a call each.
//
// The functions of stack_step.py and core_step.py, which are the reference; what they gain is that nothing is allocated
// or dispatched between operations, that an SSM state is read once, and that keys and values are read in the order in
// which they lie. A row is computed by the same instructions in the same order whatever rows are beside it, so a batch
// gives the very numbers of a row alone, and rows can be shared between threads. native.py compiles and binds it, with
// tree.cpp.
//
// Shape letters: R rows, D width, I inner width, H heads, P head width, N state size, W taps, X convolved channels,
// F feed-forward width, E core width, G key-value heads, S slots.

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>

namespace {

// -- threads ---------------------------------------------------------------------------------------------------------

using Clock = std::chrono::steady_clock;
constexpr auto PATIENCE = std::chrono::microseconds(300);  // longer than Python is away between two calls of a step
constexpr auto NEARLY = std::chrono::microseconds(20);     // parts are equal: who is done first waits about so long

// Threads that help with the parts of a call. Whoever comes first takes a part, the caller like the others: a thread
// that is late, or that cannot be had, costs time and never the result. A thread that finds no part looks on for a
// while, since the next call is near, and then sleeps. None is ever joined: it holds nothing, and the process's end is
// its end. POSIX's threads and not std's: those ask for a C++ library as new as the compiler's, and Python may have
// brought an older one.
class Crew {
   public:
    // part(0) to part(parts - 1), once each; returns when all are done. One caller at a time.
    void run(int parts, const std::function<void(int)>& part) {
        hire(parts - 1);
        job = &part;
        unfinished = parts;
        untaken = parts;
        if (asleep > 0) {
            pthread_mutex_lock(&door);  // who is about to sleep either sees the parts or can be woken
            pthread_cond_broadcast(&wake);
            pthread_mutex_unlock(&door);
        }
        while (take()) continue;
        for (const auto soon = Clock::now() + NEARLY; unfinished > 0;)
            if (Clock::now() > soon) sched_yield();  // the other thread may be waiting for this core
    }

   private:
    // Do a part if one is left. Only its taker reads the job, which stays until the part is done.
    bool take() {
        int number = untaken;
        while (number > 0 && !untaken.compare_exchange_weak(number, number - 1)) continue;
        if (number <= 0) return false;
        (*job)(number - 1);
        unfinished--;
        return true;
    }

    void hire(int wanted) {  // if no more threads can be had, those there are do all parts
        for (pthread_t one; hired < wanted && !pthread_create(&one, nullptr, help, this); hired++) pthread_detach(one);
    }

    static void* help(void* crew) {
        static_cast<Crew*>(crew)->help();
        return nullptr;
    }

    [[noreturn]] void help() {
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, nullptr);  // Python's own threads hear Ctrl-C
        while (true) {
            for (auto until = Clock::now() + PATIENCE; Clock::now() < until; sched_yield())
                if (take()) until = Clock::now() + PATIENCE;
            pthread_mutex_lock(&door);
            asleep++;
            while (untaken <= 0) pthread_cond_wait(&wake, &door);
            asleep--;
            pthread_mutex_unlock(&door);
        }
    }

    pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    std::atomic<int> untaken{0}, unfinished{0}, asleep{0};
    const std::function<void(int)>* job = nullptr;
    int hired = 0;
};

Crew* crew = nullptr;
std::atomic_flag busy = ATOMIC_FLAG_INIT;  // the crew has a caller

// some(part, first row, rows) for each part. Parts are as equal as can be: by no other cut would the largest take fewer
// groups of ROWS through a product.
template <typename Some>
void in_parts(int parts, int rows, const Some& some) {
    if (parts < 1) return;
    auto one = [&](int part) {
        const long first = static_cast<long>(rows) * part / parts, end = static_cast<long>(rows) * (part + 1) / parts;
        some(part, first, static_cast<int>(end - first));
    };
    if (parts == 1 || busy.test_and_set()) {  // another thread of Python has the crew
        for (int part = 0; part < parts; part++) one(part);
        return;
    }
    if (!crew) {
        static const int registered = pthread_atfork(nullptr, nullptr, [] { crew = nullptr, busy.clear(); });
        (void)registered;  // no thread is forked, nor one that was calling
        crew = new Crew;
    }
    crew->run(parts, one);
    busy.clear();
}

// -- arithmetic ------------------------------------------------------------------------------------------------------

constexpr int LANES = 16, PANEL = 2 * LANES, ROWS = 8;  // ROWS * 2 sums of LANES fill the registers of AVX-512
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

inline Lanes& lanes(float* at) { return *reinterpret_cast<Lanes*>(at); }
inline const Lanes& lanes(const float* at) { return *reinterpret_cast<const Lanes*>(at); }

inline float exponential(float x) {  // without a branch, so that loops over it become vector code; 2e-7 at most
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

// The same in place; `spare` has room for n numbers.
void norm_in_place(float* rows_of, const float* weight, float eps, int rows, int n, float* spare) {
    for (float* row = rows_of; row < rows_of + static_cast<long>(rows) * n; row += n) {
        rms_norm(row, weight, eps, n, spare);
        std::memcpy(row, spare, sizeof(float) * n);
    }
}

// A weight [out, in] as native.py packs it: panels of PANEL outputs, each [in, PANEL], zeros beyond the last output.
struct Weight {
    const float* panels;
    int in, out;
};

template <int rows>
inline void panel_product(const float* in, int stride, const float* panel, int n, float* out, int out_stride,
                          int used) {
    Lanes sum[rows][2] = {};
    for (int k = 0; k < n; k++) {
        Lanes low = lanes(panel + k * PANEL), high = lanes(panel + k * PANEL + LANES);
        for (int r = 0; r < rows; r++) {
            sum[r][0] += in[r * stride + k] * low;
            sum[r][1] += in[r * stride + k] * high;
        }
    }
    for (int r = 0; r < rows; r++) {
        if (used == PANEL) {
            lanes(out + r * out_stride) = sum[r][0];
            lanes(out + r * out_stride + LANES) = sum[r][1];
        } else
            std::memcpy(out + r * out_stride, sum[r], used * sizeof(float));
    }
}

// out [R, weight.out] = in [R, weight.in] times the transposed weight; panel by panel, so that a weight is read once.
void product(const float* in, const Weight& weight, int rows, float* out) {
    for (int first = 0; first < weight.out; first += PANEL) {
        const float* panel = weight.panels + static_cast<long>(first) * weight.in;
        int used = weight.out - first < PANEL ? weight.out - first : PANEL;
        for (int r = 0; r < rows; r += ROWS) {
            const float* x = in + static_cast<long>(r) * weight.in;
            float* y = out + static_cast<long>(r) * weight.out + first;
            switch (rows - r) {
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

// Have the memory of n numbers brought near: heads that take turns hide from the machine that rows are read in order.
void fetch(const float* from, long n) {
    for (long i = 0; i < n; i += 16) __builtin_prefetch(from + i);
}

// The heads of one row over keys and values [used, G, width], each head's result [width] beside the other. Positions
// are taken a few at a time for all heads, so that memory is read in its order; sums stay in registers where the width
// is known.
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

extern "C" {

struct Block {
    Weight gate, in, out, gate_up, down;  // gate_up.panels null: no feed-forward network
    const float *norm, *ffn_norm, *taps_WX, *bias_X, *dt_bias_H, *rate_H, *skip_H;
    int heads, state_size, taps;
    float norm_eps, gate_eps, ffn_eps;
};

struct Layer {
    Weight query_key_value, out, gate_up, down;
    const float *before_attention, *after_attention, *after_feed_forward, *query_norm, *key_norm;  // null: none
    float before_eps, after_eps, feed_forward_eps, query_eps, key_eps, scale;
};

// -- a stack of Mamba2 -----------------------------------------------------------------------------------------------

// What one row brings to its state: convolved [X], decay [I], added [I], from what `in` made of it, [X + H].
struct Brought {
    float *__restrict mixed_X, *__restrict decay_I, *__restrict added_I;

    Brought(const Block& block, const float* in_XH, const float* conv_WX, float* work) {
        const int H = block.heads, I = block.out.in, X = I + 2 * block.state_size, P = I / H, W = block.taps;
        mixed_X = work, decay_I = work + X, added_I = work + X + I;
        const float *__restrict last_X = block.taps_WX + (W - 1) * X, *dt_H = in_XH + X;
        for (int c = 0; c < X; c++) mixed_X[c] = block.bias_X[c] + in_XH[c] * last_X[c];
        for (int w = 0; w < W - 1; w++)
            for (int c = 0; c < X; c++) mixed_X[c] += conv_WX[w * X + c] * block.taps_WX[w * X + c];
        for (int c = 0; c < X; c++) mixed_X[c] = silu(mixed_X[c]);
        for (int h = 0; h < H; h++) {
            float raw = dt_H[h] + block.dt_bias_H[h], dt = raw > 20.0f ? raw : std::log1p(std::exp(raw));
            float decay = std::exp(dt * block.rate_H[h]);
            for (int i = h * P; i < (h + 1) * P; i++) {
                decay_I[i] = decay;
                added_I[i] = mixed_X[i] * dt;
            }
        }
    }
};

static void move_window(const Block& block, const float* in_XH, float* conv_WX) {
    const int X = block.out.in + 2 * block.state_size, W = block.taps;
    std::memmove(conv_WX, conv_WX + X, sizeof(float) * X * (W - 2));
    std::memcpy(conv_WX + (W - 2) * X, in_XH, sizeof(float) * X);
}

// The states of a row go on by what `in` made of it, and that is all.
static void advance(const Block& block, const float* in_XH, float* conv_WX, float* ssm_NI, float* work) {
    const int N = block.state_size, I = block.out.in;
    const Brought brought(block, in_XH, conv_WX, work);
    const float *B_N = brought.mixed_X + I, *__restrict decay_I = brought.decay_I,
                *__restrict added_I = brought.added_I;
    int whole = 0;
    for (; whole + PANEL <= I; whole += PANEL) {  // as in mix
        const Lanes decay_low = lanes(decay_I + whole), decay_high = lanes(decay_I + whole + LANES),
                    added_low = lanes(added_I + whole), added_high = lanes(added_I + whole + LANES);
        float* state = ssm_NI + whole;
        for (int n = 0; n < N; n++, state += I) {
            lanes(state) = lanes(state) * decay_low + B_N[n] * added_low;
            lanes(state + LANES) = lanes(state + LANES) * decay_high + B_N[n] * added_high;
        }
    }
    for (int n = 0; n < N; n++)
        for (int i = whole; i < I; i++) ssm_NI[n * I + i] = ssm_NI[n * I + i] * decay_I[i] + B_N[n] * added_I[i];
    move_window(block, in_XH, conv_WX);
}

// One row behind the projections gate [I] and in [X + H]: its gated output [I], and its states go on if commit.
static void mix(const Block& block, const float* gate_I, const float* in_XH, float* conv_WX, float* ssm_NI, bool commit,
                float* work, float* __restrict out) {
    const int N = block.state_size, H = block.heads, I = block.out.in, P = I / H;
    const Brought brought(block, in_XH, conv_WX, work);
    float *__restrict mixed_X = brought.mixed_X, *__restrict decay_I = brought.decay_I,
          *__restrict added_I = brought.added_I;
    for (int h = 0; h < H; h++)
        for (int i = h * P; i < (h + 1) * P; i++) out[i] = mixed_X[i] * block.skip_H[h];
    const float *B_N = mixed_X + I, *C_N = B_N + N;
    int whole = 0;
    for (; whole + PANEL <= I; whole += PANEL) {  // what is added up stays in registers
        Lanes low = lanes(out + whole), high = lanes(out + whole + LANES);
        const Lanes decay_low = lanes(decay_I + whole), decay_high = lanes(decay_I + whole + LANES),
                    added_low = lanes(added_I + whole), added_high = lanes(added_I + whole + LANES);
        float* state = ssm_NI + whole;
        for (int n = 0; n < N; n++, state += I) {
            const Lanes new_low = lanes(state) * decay_low + B_N[n] * added_low,
                        new_high = lanes(state + LANES) * decay_high + B_N[n] * added_high;
            low += C_N[n] * new_low;
            high += C_N[n] * new_high;
            if (commit) lanes(state) = new_low, lanes(state + LANES) = new_high;
        }
        lanes(out + whole) = low, lanes(out + whole + LANES) = high;
    }
    for (int n = 0; n < N; n++)
        for (int i = whole; i < I; i++) {
            const float now = ssm_NI[n * I + i] * decay_I[i] + B_N[n] * added_I[i];
            out[i] += C_N[n] * now;
            if (commit) ssm_NI[n * I + i] = now;
        }
    for (int i = 0; i < I; i++) out[i] *= silu(gate_I[i]);
    rms_norm(out, nullptr, block.gate_eps, I, mixed_X);
    std::memcpy(out, mixed_X, I * sizeof(float));
    if (commit) move_window(block, in_XH, conv_WX);
}

// What follows a block's mixer, whose results are mixed [R, I]: hidden [R, D] goes on, read and wide are room.
static void after_mixer(const Block& block, const float* mixed, float* hidden, int rows, float* read, float* wide) {
    const long D = block.in.in;
    product(mixed, block.out, rows, read);
    add(hidden, read, rows * D);
    if (block.gate_up.panels) {
        norm_rows(hidden, block.ffn_norm, block.ffn_eps, rows, D, read);
        feed_forward(read, block.gate_up, block.down, rows, wide, read);
        add(hidden, read, rows * D);
    }
}

static void stack_rows(const Block* blocks, int count, const float* norm, float eps, float* hidden, long first, int rows,
                       float* const* states, bool commit, float* work) {
    const long D = blocks[0].gate.in;
    float *read = work, *gates = read + rows * D;
    hidden += first * D;
    for (int b = 0; b < count; b++) {
        const Block& block = blocks[b];
        const long across = block.in.out, I = block.out.in, conv = (block.taps - 1) * (I + 2 * block.state_size);
        float *wide = gates + rows * I, *mixed = wide + rows * across, *spare = mixed + rows * I;
        norm_rows(hidden, block.norm, block.norm_eps, rows, D, read);
        product(read, block.gate, rows, gates);
        product(read, block.in, rows, wide);
        for (int r = 0; r < rows; r++)
            mix(block, gates + r * I, wide + r * across, states[2 * b] + (first + r) * conv,
                states[2 * b + 1] + (first + r) * block.state_size * I, commit, spare, mixed + r * I);
        after_mixer(block, mixed, hidden, rows, read, gates);
    }
    norm_in_place(hidden, norm, eps, rows, D, read);
}

// hidden [R, D] is replaced by the stack's output. states: conv [R, W - 1, X] and ssm [R, N, I] of each block in turn,
// which go on if commit. Each part of the rows has `room` numbers of work.
void stack_step(const Block* blocks, int count, const float* norm, float eps, float* hidden, int rows,
                float* const* states, int commit, int parts, float* work, long room) {
    in_parts(parts, rows, [=](int part, long first, int some) {
        stack_rows(blocks, count, norm, eps, hidden, first, some, states, commit, work + part * room);
    });
}

// -- a core ----------------------------------------------------------------------------------------------------------

static void core_rows(const Layer* layers, int count, const float* norm, float eps, float* hidden, int rows,
                      const int* place, const int* slots, float* keys, float* values, long apart, int S, int H, int G,
                      int width, const float* cos, const float* sin, float* work) {
    const long E = layers[0].query_key_value.in;
    const long of_query = H * width, of_key = G * width, across = of_query + 2 * of_key;
    float *read = work, *wide = read + rows * E, *mixed = wide + rows * across, *spare = mixed + rows * of_query;
    for (int l = 0; l < count; l++) {
        const Layer& layer = layers[l];
        const bool norm_first = layer.before_attention;  // Llama and Qwen3; OLMo2 norms what a part adds
        if (norm_first) norm_rows(hidden, layer.before_attention, layer.before_eps, rows, E, read);
        product(norm_first ? read : hidden, layer.query_key_value, rows, wide);
        for (int r = 0; r < rows; r++) {
            float *query = wide + r * across, *key = query + of_query, *value = key + of_key;
            if (layer.query_norm) {  // Qwen3 norms each head, OLMo2 all together
                const int parts = norm_first ? H : 1, key_parts = norm_first ? G : 1;
                norm_in_place(query, layer.query_norm, layer.query_eps, parts, of_query / parts, spare);
                norm_in_place(key, layer.key_norm, layer.key_eps, key_parts, of_key / key_parts, spare);
            }
            const long angle = static_cast<long>(slots[r]) * width, row = l * apart + place[r] * of_key * S;
            rotate(query, H + G, width, cos + angle, sin + angle, spare);
            std::memcpy(keys + row + slots[r] * of_key, key, sizeof(float) * of_key);
            std::memcpy(values + row + slots[r] * of_key, value, sizeof(float) * of_key);
            attend(query, keys + row, values + row, slots[r] + 1, H, G, width, layer.scale, spare,
                   mixed + r * of_query);
        }
        product(mixed, layer.out, rows, read);
        if (!norm_first) norm_in_place(read, layer.after_attention, layer.after_eps, rows, E, spare);
        add(hidden, read, rows * E);
        if (norm_first)
            norm_rows(hidden, layer.after_attention, layer.after_eps, rows, E, read);
        else
            std::memcpy(read, hidden, sizeof(float) * rows * E);
        feed_forward(read, layer.gate_up, layer.down, rows, wide, read);
        if (!norm_first) norm_in_place(read, layer.after_feed_forward, layer.feed_forward_eps, rows, E, spare);
        add(hidden, read, rows * E);
    }
    norm_in_place(hidden, norm, eps, rows, E, read);
}

// hidden [R, E] is replaced by the core's output at a new position of each row: slots[r] of row place[r] of the cache,
// which is keys and values [layers, *, S, G, width], `apart` numbers between layers. cos, sin: [S, width].
void core_step(const Layer* layers, int count, const float* norm, float eps, float* hidden, int rows, const int* place,
               const int* slots, float* keys, float* values, long apart, int S, int H, int G, int width,
               const float* cos, const float* sin, int parts, float* work, long room) {
    in_parts(parts, rows, [=](int part, long first, int some) {
        core_rows(layers, count, norm, eps, hidden + first * layers[0].query_key_value.in, some, place + first,
                  slots + first, keys, values, apart, S, H, G, width, cos, sin, work + part * room);
    });
}

// -- a map -----------------------------------------------------------------------------------------------------------

// in [R, *] through a weight, or through a feed-forward network if there is a second one, which needs work: out [R, *].
void map_step(const Weight* first, const Weight* down, const float* in, int rows, float* out, int parts, float* work,
              long room) {
    in_parts(parts, rows, [=](int part, long begin, int some) {
        const float* from = in + begin * first->in;
        if (down)
            feed_forward(from, *first, *down, some, work + part * room, out + begin * down->out);
        else
            product(from, *first, some, out + begin * first->out);
    });
}
}
