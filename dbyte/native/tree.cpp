// The nodes of trees (text/tree.py) through a stack of Mamba2 blocks and through a core, each once: what sequences begin
// with is computed for all of them. Nodes come with parents before children, one subtree after the other, and trees are
// shared between threads. A node is computed as step.cpp computes a row, by the same instructions in the same order.
//
// Shape letters: T nodes, and those of step.cpp.

#include <algorithm>
#include <vector>

#include "step.cpp"

// Where a node starts from, unless from a state that was kept; GIVEN and below: from one that was given, of that number.
constexpr int GO_ON = -1, ANEW = -2, GIVEN = -3;

struct States {  // those that were kept and those that are given, of every block [*, count, conv + ssm]
    float* kept;
    const float* given;
    long count, conv, ssm;

    float* place(int number, int b) const { return kept + (number * count + b) * (conv + ssm); }

    // `state` becomes what a node of block b starts from.
    void take_up(int from, int b, float* state) const {
        if (from == ANEW)
            std::memset(state, 0, sizeof(float) * (conv + ssm));
        else if (from <= GIVEN)
            std::memcpy(state, given + ((GIVEN - from) * count + b) * (conv + ssm), sizeof(float) * (conv + ssm));
        else if (from != GO_ON)
            std::memcpy(state, place(from, b), sizeof(float) * (conv + ssm));
    }

    void put_down(int keep, int b, const float* state) const {
        if (keep >= 0) std::memcpy(place(keep, b), state, sizeof(float) * (conv + ssm));
    }
};

struct Notes {  // what `in` made of nodes, of every block [*, count, each]: their states can go on by it once more
    float* noted;
    long count, each;

    float* place(int number, int b) const { return noted + (number * count + b) * each; }
};

// Moves the rows of [rows, n] that are wanted to the front, in their order, and tells how many they are.
static int leave(float* rows_of, const unsigned char* wanted, int rows, long n) {
    int left = 0;
    for (int r = 0; r < rows; r++)
        if (wanted[r] && left++ != r) std::memcpy(rows_of + (left - 1) * n, rows_of + r * n, sizeof(float) * n);
    return left;
}

// Moves them back to where they were.
static void put_back(float* rows_of, const unsigned char* wanted, int rows, int left, long n) {
    for (int r = rows - 1; r >= 0; r--)
        if (wanted[r] && --left != r) std::memcpy(rows_of + r * n, rows_of + left * n, sizeof(float) * n);
}

struct Paths {  // what a core knows of paths that were kept; a cache is keys, then values, so twice as many layers
    float* kept;
    long slots, layers, S, of_key;

    void take_up(int number, int used, float* cache) const {
        for (long l = 0; l < layers; l++)
            std::memcpy(cache + l * S * of_key, place(number, l), sizeof(float) * used * of_key);
    }

    void put_down(int number, int used, const float* cache) const {
        for (long l = 0; l < layers; l++)
            std::memcpy(place(number, l), cache + l * S * of_key, sizeof(float) * used * of_key);
    }

    float* place(int number, long l) const { return kept + (number * layers + l) * slots * of_key; }
};

// How many of so many nodes go through the core together: none that needs a kept path, or would overwrite one to keep.
static int together(const int* depth, const int* from, const int* keep, int most) {
    int rows = 0, kept_to = -1;
    while (rows < most && (rows == 0 || from[rows] < 0) && depth[rows] > kept_to) {
        if (keep[rows] >= 0) kept_to = depth[rows];
        rows++;
    }
    return rows;
}

extern "C" {

// -- a stack of Mamba2 -----------------------------------------------------------------------------------------------

// hidden [T, D] is replaced by the stack's output at the nodes that are wanted; the others are read for their states
// alone and hold nothing of use afterwards. Node t starts from its predecessor's state, from nothing, from state from[t]
// of those kept or from a given one; its own is kept as keep[t], and what `in` makes of it noted as note[t], unless
// negative.
void stack_read(const Block* blocks, int count, const float* norm, float eps, float* hidden_TD, const int* from,
                const int* keep, const int* note, const unsigned char* wanted, int tile, float* kept, const float* given,
                float* noted, const long* bounds, int parts, float* work, long room) {
    const Block& one = blocks[0];
    const long D = one.gate.in, I = one.out.in, across = one.in.out;
    const States states{kept, given, count, (one.taps - 1) * (I + 2 * one.state_size), one.state_size * I};
    const Notes notes{noted, count, across};
    in_parts(parts, parts, [=](int part, long, int) {
        const long size = states.conv + states.ssm, first = bounds[part], end = bounds[part + 1];
        float *running = work + part * room, *read = running + count * size, *gates = read + tile * D;
        float *wide = gates + tile * I, *mixed = wide + tile * across, *spare = mixed + tile * I;
        for (long t = first; t < end; t += tile) {
            float* hidden = hidden_TD + t * D;
            const int all = end - t < tile ? end - t : tile;
            int rows = all;
            for (int b = 0; b < count; b++) {
                const Block& block = blocks[b];
                const bool last = b == count - 1;  // only of the last block a node may be left out
                norm_rows(hidden, block.norm, block.norm_eps, rows, D, read);
                product(read, block.in, rows, wide);
                if (last) {
                    leave(read, wanted + t, all, D);
                    rows = leave(hidden, wanted + t, all, D);
                }
                product(read, block.gate, rows, gates);
                float* state = running + b * size;
                for (int r = 0, out = 0; r < all; r++) {
                    const float* in = wide + r * across;
                    states.take_up(from[t + r], b, state);
                    if (last && !wanted[t + r])
                        advance(block, in, state, state + states.conv, spare);
                    else {
                        mix(block, gates + out * I, in, state, state + states.conv, true, spare, mixed + out * I);
                        out++;
                    }
                    states.put_down(keep[t + r], b, state);
                    if (note[t + r] >= 0) std::memcpy(notes.place(note[t + r], b), in, sizeof(float) * across);
                }
                after_mixer(block, mixed, hidden, rows, read, gates);
            }
            norm_in_place(hidden, norm, eps, rows, D, read);
            put_back(hidden, wanted + t, all, rows, D);
        }
    });
}

// Nodes that were read before, by what was noted of them, and tries behind them, which leave no trace: hidden [S, D] of
// the tries is replaced by the stack's output. Of all in turn, number[m] is a node's note, negative for a try; from and
// keep are those of stack_read, of nodes. in_place: from names the state that the node itself and those behind it alter.
void stack_tries(const Block* blocks, int count, const float* norm, float eps, float* hidden_SD, const int* from,
                 const int* keep, const int* number, int tile, float* kept, const float* given,
                 int in_place, float* noted, const long* bounds, int parts, float* work, long room) {
    const Block& one = blocks[0];
    const long D = one.gate.in, I = one.out.in, across = one.in.out;
    const States states{kept, given, count, (one.taps - 1) * (I + 2 * one.state_size), one.state_size * I};
    const Notes notes{noted, count, across};
    in_parts(parts, parts, [=](int part, long, int) {
        const long size = states.conv + states.ssm, last = bounds[part + 1];
        float *running = work + part * room, *read = running + count * size, *gates = read + tile * D;
        float *wide = gates + tile * I, *mixed = wide + tile * across, *spare = mixed + tile * I;
        std::vector<float*> state(count);
        for (int b = 0; b < count; b++) state[b] = running + b * size;
        float* hidden = hidden_SD + D * std::count_if(number, number + bounds[part], [](int n) { return n < 0; });
        for (long m = bounds[part], end; m < last; m = end) {
            int rows = 0;
            for (end = m; end < last && (rows < tile || number[end] >= 0); end++) rows += number[end] < 0;
            for (int b = 0; b < count; b++) {
                const Block& block = blocks[b];
                norm_rows(hidden, block.norm, block.norm_eps, rows, D, read);
                product(read, block.gate, rows, gates);
                product(read, block.in, rows, wide);
                for (long k = m, r = 0; k < end; k++) {
                    if (number[k] < 0) {
                        mix(block, gates + r * I, wide + r * across, state[b], state[b] + states.conv, false, spare,
                            mixed + r * I);
                        r++;
                        continue;
                    }
                    if (in_place && from[k] >= 0)
                        state[b] = states.place(from[k], b);
                    else
                        states.take_up(from[k], b, state[b]);
                    advance(block, notes.place(number[k], b), state[b], state[b] + states.conv, spare);
                    states.put_down(keep[k], b, state[b]);
                }
                after_mixer(block, mixed, hidden, rows, read, gates);
            }
            norm_in_place(hidden, norm, eps, rows, D, read);
            hidden += rows * D;
        }
    });
}

// -- a core ----------------------------------------------------------------------------------------------------------

// hidden [T, E] is replaced by the core's output at the nodes of trees. To core_rows they are positions of one row, each
// in the slot of its depth: a subtree that comes later overwrites what it may not see, and finds what it may. A root t
// may go on from path from[t] of those kept, at the depth that follows; the path to node t is kept as keep[t] (negative:
// neither). A kept path is keys, then values, [layers, kept_slots, G, width].
void core_read(const Layer* layers, int count, const float* norm, float eps, float* hidden_TE, const int* depth, int S,
               int H, int G, int width, const float* cos, const float* sin, int tile, const int* from, const int* keep,
               float* kept, int kept_slots, const long* bounds, int parts, float* work, long room) {
    const long E = layers[0].query_key_value.in, cache = static_cast<long>(count) * S * G * width;
    const Paths paths{kept, kept_slots, 2 * count, S, G * width};
    in_parts(parts, parts, [=](int part, long, int) {
        const long first = bounds[part], end = bounds[part + 1];
        float *keys = work + part * room, *values = keys + cache;
        const std::vector<int> same_row(tile, 0);
        for (long t = first, rows; t < end; t += rows) {
            if (from[t] >= 0) paths.take_up(from[t], depth[t], keys);
            rows = together(depth + t, from + t, keep + t, end - t < tile ? end - t : tile);
            core_rows(layers, count, norm, eps, hidden_TE + t * E, rows, same_row.data(), depth + t, keys, values,
                      cache / count, S, H, G, width, cos, sin, values + cache);
            for (long r = t; r < t + rows; r++)
                if (keep[r] >= 0) paths.put_down(keep[r], depth[r] + 1, keys);
        }
    });
}
}
