// Stacks of Mamba2 blocks and cores of a student, in fp32 on a CPU: one byte of a few rows, or all nodes of trees.
//
// The functions of decode/stack_step.py and of a core's layers in transformers, which are the reference. What this gains:
// nothing is allocated or dispatched between operations, an SSM state is read once, and keys and values are read in the
// order in which they lie in memory. library.py compiles and binds it.
//
// Trees (text/prefix_tree.py) hold texts that begin alike: their common beginnings are computed once. Nodes come with
// parents before children, one subtree after the other.
//
// Shape letters: R rows, T nodes, D width, I inner width, H heads, P head width, N state size, W taps, X convolved
// channels, E core width, G key-value heads, S slots.

#include <algorithm>
#include <memory>

#include "arithmetic.hpp"

namespace {

constexpr int TILE = 64;  // nodes that pass all blocks or layers before the next ones do: they stay in the cache

// A line of the processor's cache: memory that is made of lines begins at one.
struct alignas(sizeof(float) * LANES) Line {
    float numbers[LANES];
};

// Calls some(first, end, memory) for equal parts of 0 .. count, one thread per part; memory has room for `numbers`.
template <typename Some>
void in_threads(int threads, int count, long numbers, const Some& some) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int part = 0; part < threads; part++) {
        const std::unique_ptr<Line[]> memory(new Line[numbers / LANES + 1]);
        some(static_cast<long>(count) * part / threads, static_cast<long>(count) * (part + 1) / threads,
             reinterpret_cast<float*>(memory.get()));
    }
}

// The largest number of rows that one thread gets.
long share(int rows, int threads) { return (rows + threads - 1) / threads; }

// -- a stack of Mamba2 -----------------------------------------------------------------------------------------------

// The states of one row in one block: convolution inputs [W - 1, X], oldest first, and the SSM state [N, I].
struct State {
    float *conv_WX, *ssm_NI;
};

// The gated and normed output [I] of one row from its projection in [I + X + H], gate first. If commit, states change.
void mix(const Block& block, const float* in, const State& state, bool commit, float* work, float* __restrict out) {
    const int N = block.state_size, H = block.heads, I = block.out.in, X = I + 2 * N, P = I / H, W = block.taps;
    const float *gate_I = in, *new_X = in + I, *dt_H = new_X + X, *last_X = block.taps_WX + (W - 1) * X;
    float *__restrict mixed_X = work, *__restrict decay_I = work + X, *__restrict added_I = work + X + I;
    for (int c = 0; c < X; c++) mixed_X[c] = block.bias_X[c] + new_X[c] * last_X[c];
    for (int w = 0; w < W - 1; w++)
        for (int c = 0; c < X; c++) mixed_X[c] += state.conv_WX[w * X + c] * block.taps_WX[w * X + c];
    for (int c = 0; c < X; c++) mixed_X[c] = silu(mixed_X[c]);
    for (int h = 0; h < H; h++) {
        const float raw = dt_H[h] + block.dt_bias_H[h], dt = raw > 20.0f ? raw : std::log1p(std::exp(raw));
        const float decay = std::exp(dt * block.rate_H[h]);
        for (int i = h * P; i < (h + 1) * P; i++) {
            decay_I[i] = decay;
            added_I[i] = mixed_X[i] * dt;
            out[i] = mixed_X[i] * block.skip_H[h];
        }
    }
    const float *B_N = mixed_X + I, *C_N = B_N + N;
    for (int n = 0; n < N; n++) {
        float* __restrict ssm_I = state.ssm_NI + n * I;
        for (int i = 0; i < I; i++) {
            const float now = ssm_I[i] * decay_I[i] + B_N[n] * added_I[i];
            out[i] += C_N[n] * now;
            if (commit) ssm_I[i] = now;
        }
    }
    if (commit) {
        std::memmove(state.conv_WX, state.conv_WX + X, sizeof(float) * X * (W - 2));
        std::memcpy(state.conv_WX + (W - 2) * X, new_X, sizeof(float) * X);
    }
    for (int i = 0; i < I; i++) out[i] *= silu(gate_I[i]);
    norm_in_place(out, nullptr, block.gate_eps, 1, I, mixed_X);
}

// How many floats of working memory run_block needs.
long block_memory(const Block& block, long rows) {
    const long wide = std::max(block.in.out + block.out.in, block.gate_up.out + block.down.in);
    return rows * (block.in.in + wide) + 3L * (block.out.in + 2 * block.state_size);
}

// Runs hidden [R, D] through a block, in place. Calls state_of(r) before row r is computed, and after(r) after it.
template <typename StateOf, typename After>
void run_block(const Block& block, float* hidden, int rows, bool commit, const StateOf& state_of, const After& after,
               float* work) {
    const long D = block.in.in, I = block.out.in, across = block.in.out;
    float *read = work, *wide = read + rows * D, *mixed = wide + rows * across, *spare = mixed + rows * I;
    norm_rows(hidden, block.norm, block.norm_eps, rows, D, read);
    product(read, block.in, rows, wide);
    for (int r = 0; r < rows; r++) {
        mix(block, wide + r * across, state_of(r), commit, spare, mixed + r * I);
        after(r);
    }
    product(mixed, block.out, rows, read);
    add(hidden, read, rows * D);
    if (block.gate_up.panels) {
        norm_rows(hidden, block.ffn_norm, block.ffn_eps, rows, D, read);
        feed_forward(read, block.gate_up, block.down, rows, wide, read);
        add(hidden, read, rows * D);
    }
}

// -- a core ----------------------------------------------------------------------------------------------------------

// A cache: keys and values [layers, *, S, G, width]; a layer begins `apart` floats after the one before.
struct Cache {
    float *keys, *values;
    long apart;
};

// How many floats of working memory core_rows needs.
long core_memory(const Core& core, long rows) {
    const Layer& one = core.layers[0];
    const long wide = std::max(one.query_key_value.out + one.out.in, one.gate_up.out + one.down.in);
    return rows * (one.out.out + wide) + static_cast<long>(core.heads) * (core.slots + core.width) + one.out.out;
}

// hidden [R, E] is replaced by the core's output at slot slots[r] of row place[r] of the cache.
void core_rows(const Core& core, float* hidden, int rows, const int* place, const int* slots, const Cache& cache,
               float* work) {
    const int H = core.heads, G = core.key_heads, width = core.width;
    const long E = core.layers[0].query_key_value.in;
    const long of_query = H * width, of_key = G * width, across = of_query + 2 * of_key;
    float *read = work, *wide = read + rows * E, *mixed = wide + rows * across, *spare = mixed + rows * of_query;
    for (int l = 0; l < core.count; l++) {
        const Layer& layer = core.layers[l];
        const bool norm_first = layer.before_attention;  // Llama and Qwen3; OLMo2 norms what a part adds
        if (norm_first) norm_rows(hidden, layer.before_attention, layer.before_attention_eps, rows, E, read);
        product(norm_first ? read : hidden, layer.query_key_value, rows, wide);
        for (int r = 0; r < rows; r++) {
            float *query = wide + r * across, *key = query + of_query, *value = key + of_key;
            if (layer.query_norm) {  // Qwen3 norms each head, OLMo2 all together
                const int parts = norm_first ? H : 1, key_parts = norm_first ? G : 1;
                norm_in_place(query, layer.query_norm, layer.query_norm_eps, parts, of_query / parts, spare);
                norm_in_place(key, layer.key_norm, layer.key_norm_eps, key_parts, of_key / key_parts, spare);
            }
            const long angle = static_cast<long>(slots[r]) * width;
            const long row = l * cache.apart + place[r] * of_key * core.slots;
            rotate(query, H + G, width, core.cos + angle, core.sin + angle, spare);
            std::memcpy(cache.keys + row + slots[r] * of_key, key, sizeof(float) * of_key);
            std::memcpy(cache.values + row + slots[r] * of_key, value, sizeof(float) * of_key);
            attend(query, cache.keys + row, cache.values + row, slots[r] + 1, H, G, width, layer.scale, spare,
                   mixed + r * of_query);
        }
        product(mixed, layer.out, rows, read);
        if (!norm_first) norm_in_place(read, layer.after_attention, layer.after_attention_eps, rows, E, spare);
        add(hidden, read, rows * E);
        if (norm_first)
            norm_rows(hidden, layer.after_attention, layer.after_attention_eps, rows, E, read);
        else
            std::memcpy(read, hidden, sizeof(float) * rows * E);
        feed_forward(read, layer.gate_up, layer.down, rows, wide, read);
        if (!norm_first) norm_in_place(read, layer.after_feed_forward, layer.after_feed_forward_eps, rows, E, spare);
        add(hidden, read, rows * E);
    }
    norm_in_place(hidden, core.norm, core.eps, rows, E, read);
}

}  // namespace

extern "C" {

// hidden [R, D] is replaced by the stack's output. states: conv [R, W - 1, X] and ssm [R, N, I] of each block in turn,
// which change if commit.
void stack_step(const Stack* stack, float* hidden, int rows, float* const* states, int commit, int threads) {
    const long D = stack->blocks[0].in.in;
    const long memory = block_memory(stack->blocks[0], share(rows, threads));
    in_threads(threads, rows, memory, [=](long first, long end, float* work) {
        float* some = hidden + first * D;
        for (int b = 0; b < stack->count; b++) {
            const Block& block = stack->blocks[b];
            const long I = block.out.in, ssm = block.state_size * I;
            const long conv = (block.taps - 1) * (I + 2 * block.state_size);
            run_block(block, some, end - first, commit, [=](int r) {
                return State{states[2 * b] + (first + r) * conv, states[2 * b + 1] + (first + r) * ssm};
            }, [](int) {}, work);
        }
        norm_in_place(some, stack->norm, stack->eps, end - first, D, work);
    });
}

// hidden [T, D] is replaced by the stack's output at every node. Node t starts from its predecessor's state (from[t] -1),
// from an empty one (-2) or from kept state from[t]; its own state is kept as number keep[t] unless that is negative.
// kept: [*, blocks, conv + ssm]. Trees lie between bounds [parts + 1].
void stack_read(const Stack* stack, float* hidden_TD, const int* from, const int* keep, float* kept, const long* bounds,
                int parts) {
    const Block& one = stack->blocks[0];
    const long D = one.in.in, I = one.out.in;
    const long conv = (one.taps - 1) * (I + 2 * one.state_size), size = conv + one.state_size * I;
    in_threads(parts, parts, stack->count * size + block_memory(one, TILE), [=](long first, long end, float* running) {
        float* work = running + stack->count * size;
        for (long t = bounds[first]; t < bounds[end]; t += TILE) {
            const int rows = bounds[end] - t < TILE ? bounds[end] - t : TILE;
            for (int b = 0; b < stack->count; b++) {
                float* state = running + b * size;
                const auto place = [=](long number) { return kept + (number * stack->count + b) * size; };
                const auto state_of = [=](int r) {
                    if (from[t + r] == -2)
                        std::memset(state, 0, sizeof(float) * size);
                    else if (from[t + r] >= 0)
                        std::memcpy(state, place(from[t + r]), sizeof(float) * size);
                    return State{state, state + conv};
                };
                const auto after = [=](int r) {
                    if (keep[t + r] >= 0) std::memcpy(place(keep[t + r]), state, sizeof(float) * size);
                };
                run_block(stack->blocks[b], hidden_TD + t * D, rows, true, state_of, after, work);
            }
            norm_in_place(hidden_TD + t * D, stack->norm, stack->eps, rows, D, work);
        }
    });
}

// hidden [R, E] is replaced by the core's output at a new position of each row: slots[r] of row place[r] of the cache,
// which is keys and values [layers, *, S, G, width], `apart` numbers between layers.
void core_step(const Core* core, float* hidden, int rows, const int* place, const int* slots, float* keys,
               float* values, long apart, int threads) {
    const long E = core->layers[0].query_key_value.in;
    in_threads(threads, rows, core_memory(*core, share(rows, threads)), [=](long first, long end, float* work) {
        core_rows(*core, hidden + first * E, end - first, place + first, slots + first, {keys, values, apart}, work);
    });
}

// hidden [T, E] is replaced by the core's output at the nodes of trees, which lie between bounds [parts + 1]. To
// core_rows they are positions of one row, each in the slot of its depth: a later subtree overwrites what it may not
// see.
void core_read(const Core* core, float* hidden_TE, const int* depth, const long* bounds, int parts) {
    static const int same_row[TILE] = {};
    const long E = core->layers[0].query_key_value.in;
    const long apart = static_cast<long>(core->slots) * core->key_heads * core->width;
    const long cache = 2 * core->count * apart;
    in_threads(parts, parts, cache + core_memory(*core, TILE), [=](long first, long end, float* keys) {
        float *values = keys + core->count * apart, *work = keys + cache;
        for (long t = bounds[first]; t < bounds[end]; t += TILE) {
            const int rows = bounds[end] - t < TILE ? bounds[end] - t : TILE;
            core_rows(*core, hidden_TE + t * E, rows, same_row, depth + t, {keys, values, apart}, work);
        }
    });
}

// in [R, *] through a weight, or through SwiGLU if there is a second one: out [R, *].
void map_rows(const Weight* first, const Weight* down, const float* in, int rows, float* out, int threads) {
    const long wide = down ? TILE * static_cast<long>(first->out + down->in) : 0;
    in_threads(threads, rows, wide, [=](long begin, long end, float* work) {
        for (long r = begin; r < end; r += TILE) {
            const int some = end - r < TILE ? end - r : TILE;
            if (down)
                feed_forward(in + r * first->in, *first, *down, some, work, out + r * down->out);
            else
                product(in + r * first->in, *first, some, out + r * first->out);
        }
    });
}
}
