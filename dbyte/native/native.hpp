// What native.cpp is given, and its functions: plain C, for library.py reads this file too.

// A weight [out, in] as library.py packs it: panels of PANEL outputs, each [in, PANEL], zeros beyond the last output.
typedef struct {
    const float* panels;
    int in, out;
} Weight;

typedef struct {
    Weight in, out, gate_up, down;  // in: the gate, what is convolved, step sizes; gate_up.panels null: no feed-forward
    const float *norm, *ffn_norm, *taps_WX, *bias_X, *dt_bias_H, *rate_H, *skip_H;
    int heads, state_size, taps;
    float norm_eps, gate_eps, ffn_eps;
} Block;

typedef struct {
    const Block* blocks;  // of one shape
    int count;
    const float* norm;
    float eps;
} Stack;

typedef struct {
    Weight query_key_value, out, gate_up, down;
    const float *before_attention, *after_attention, *after_feed_forward, *query_norm, *key_norm;  // null: none
    float before_attention_eps, after_attention_eps, after_feed_forward_eps, query_norm_eps, key_norm_eps, scale;
} Layer;

typedef struct {
    const Layer* layers;  // of one shape
    int count;
    const float* norm;
    float eps;
    int heads, key_heads, width, slots;
    const float *cos, *sin;  // [S, width]
} Core;

// The last argument of a step and of map_rows is how many threads share the rows; a read has one for each of its parts.
void stack_step(const Stack* stack, float* hidden, int rows, float* const* states, int commit, int threads);
void stack_read(const Stack* stack, float* hidden_TD, const int* from, const int* keep, float* kept, const long* bounds,
                int parts);
void core_step(const Core* core, float* hidden, int rows, const int* place, const int* slots, float* keys,
               float* values, long apart, int threads);
void core_read(const Core* core, float* hidden_TE, const int* depth, const long* bounds, int parts);
void map_rows(const Weight* first, const Weight* down, const float* in, int rows, float* out, int threads);
