// The nodes of trees (text/tree.py) through a stack of Mamba2 blocks and through a core, each once: what sequences begin
// with is computed for all of them. Nodes come with parents before children, one subtree after the other, and trees are
// shared between threads. A node is computed as step.cpp computes a row, by the same instructions in the same order.
//
// Shape letters: T nodes, and those of step.cpp.

#include <vector>

#include "step.cpp"

constexpr int GO_ON = -1, ANEW = -2;  // where a node starts from, unless from a state that was kept
constexpr int TRIED = -2;             // in place of where its state is kept: it leaves none at all

struct States {  // of every block: the running one, and those that were kept
    float *running, *kept;
    long conv, ssm;
};

// The mixers of one block for `rows` nodes, behind the projection.
static void mix_nodes(const Block& block, int b, int count, const float* wide, int rows, const int* from,
                      const int* keep, const States& states, float* spare, float* mixed) {
    const long size = states.conv + states.ssm, across = block.in.out, I = block.out.in;
    float* state = states.running + b * size;
    for (int r = 0; r < rows; r++) {
        if (from[r] == ANEW)
            std::memset(state, 0, sizeof(float) * size);
        else if (from[r] != GO_ON)
            std::memcpy(state, states.kept + (static_cast<long>(from[r]) * count + b) * size, sizeof(float) * size);
        mix(block, wide + r * across, state, state + states.conv, keep[r] != TRIED, spare, mixed + r * I);
        if (keep[r] >= 0)
            std::memcpy(states.kept + (static_cast<long>(keep[r]) * count + b) * size, state, sizeof(float) * size);
    }
}

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
// alone and hold nothing of use afterwards. Node t starts from its predecessor's state, from nothing, or from state
// from[t] of those kept; its own is kept as keep[t], unless that is negative. A node that is only tried leaves the state
// as it was.
void stack_read(const Block* blocks, int count, const float* norm, float eps, float* hidden_TD, const int* from,
                const int* keep, const unsigned char* wanted, int tile, float* kept, const long* bounds, int parts,
                float* work, long room) {
    const Block& one = blocks[0];
    const long D = one.in.in, I = one.out.in, X = I + 2 * one.state_size;
    const long conv = (one.taps - 1) * X, ssm = one.state_size * I;
    in_parts(parts, parts, [=](int part, long, int) {
        const long first = bounds[part], end = bounds[part + 1];
        float* mine = work + part * room;
        const States states{mine, kept, conv, ssm};
        float *read = mine + count * (conv + ssm), *wide = read + tile * D;
        for (long t = first; t < end; t += tile) {
            float* hidden = hidden_TD + t * D;
            const int all = end - t < tile ? end - t : tile;
            int rows = all;
            for (int b = 0; b < count; b++) {
                const Block& block = blocks[b];
                float *mixed = wide + tile * block.in.out, *spare = mixed + tile * I;
                norm_rows(hidden, block.norm, block.norm_eps, rows, D, read);
                product(read, block.in, rows, wide);
                mix_nodes(block, b, count, wide, rows, from + t, keep + t, states, spare, mixed);
                if (b == count - 1) {
                    leave(mixed, wanted + t, all, I);
                    rows = leave(hidden, wanted + t, all, D);
                }
                after_mixer(block, mixed, hidden, rows, read, wide);
            }
            norm_in_place(hidden, norm, eps, rows, D, read);
            put_back(hidden, wanted + t, all, rows, D);
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
