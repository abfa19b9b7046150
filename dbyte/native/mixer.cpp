// Convolution, SiLU and scan of a Mamba2 mixer over whole rows, and their gradients, in fp32 on a CPU.
//
// The functions of convolution.py and ssd.py, which are the reference. What they gain is that nothing passes through
// memory in between: a piece of PIECE bytes is convolved into the cache and scanned there byte by byte, head by head,
// with the state in the first cache. Forward keeps the state before each piece, from which backward has the piece's
// states again. A byte depends on nothing but its own document's bytes, in their order: packed documents give the very
// numbers of separate ones. Rows are shared between threads (a single row has one thread), and what is summed over rows
// is left apart for each. A process that has no memory left ends here: nothing catches what std::vector throws.
//
// Shape letters: Q bytes of a piece, and those of step.cpp. A head's numbers lie padded to V times LANES.

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "tree.cpp"

extern "C" {

struct Mixer {
    int rows, length, heads, width, state_size, taps;  // width: of a head
    const float *rate_H, *skip_H, *taps_WX, *bias_X;
    const float *in_BLX, *dt_BLH;
    const int64_t* document_BL;  // null: each row is one document
};
}

namespace {

constexpr int PIECE = 32;

struct Sizes {
    const int H, P, N, W, L, V, padded;
    const long I, X, pieces;

    explicit Sizes(const Mixer& mixer)
        : H(mixer.heads), P(mixer.width), N(mixer.state_size), W(mixer.taps), L(mixer.length),
          V((P + LANES - 1) / LANES), padded(V * LANES), I(static_cast<long>(H) * P), X(I + 2 * N),
          pieces((L + PIECE - 1) / PIECE) {}

    long state() const { return static_cast<long>(N) * padded; }  // of a head
};

// How in_lanes sees numbers. Not by lambdas: a type that is deduced forgets that Lanes may lie anywhere.
struct Abreast {
    Lanes& operator()(float* at) const { return lanes(at); }
    const Lanes& operator()(const float* at) const { return lanes(at); }
};

struct Single {
    float& operator()(float* at) const { return *at; }
    const float& operator()(const float* at) const { return *at; }
};

// call(place, see) over n numbers: LANES at a time, and what is left one by one.
template <typename Call>
inline void in_lanes(long n, const Call& call) {
    long at = 0;
    for (; at + LANES <= n; at += LANES) call(at, Abreast());
    for (; at < n; at++) call(at, Single());
}

// One row, and the piece of it that is at hand.
class Row {
   public:
    Row(const Mixer& mixer, int row)
        : size(mixer), mixer(mixer), in_LX(mixer.in_BLX + row * size.L * size.X),
          dt_LH(mixer.dt_BLH + static_cast<long>(row) * size.L * size.H),
          document_L(mixer.document_BL ? mixer.document_BL + static_cast<long>(row) * size.L : nullptr),
          raw_QX(PIECE * size.X), mixed_QX(PIECE * size.X), sent_QP(PIECE * size.padded), decay_Q(PIECE),
          starts_Q(PIECE) {}

    // How many bytes before byte t, at most `most`, lie in its document and row.
    int before(int t, int most) const {
        int reach = 0;
        while (reach < most && reach < t && (!document_L || document_L[t - reach - 1] == document_L[t])) reach++;
        return reach;
    }

    bool starts(long t) const { return before(t, 1) == 0; }
    const float* tap_of(int back) const { return mixer.taps_WX + (size.W - 1 - back) * size.X; }

    // Convolve the bytes of a piece: raw before, mixed behind the SiLU; and see which of them start a document.
    void take(long piece) {
        first = piece * PIECE;
        bytes = size.L - first < PIECE ? size.L - first : PIECE;
        for (int q = 0; q < bytes; q++) {
            starts_Q[q] = starts(first + q);
            float *__restrict raw = raw_QX.data() + q * size.X, *__restrict mixed = mixed_QX.data() + q * size.X;
            const float* in_X = in_LX + (first + q) * size.X;
            const int reach = before(first + q, size.W - 1);
            in_lanes(size.X, [&](long c, auto see) {
                auto sum = see(mixer.bias_X + c);
                for (int back = 0; back <= reach; back++)
                    sum += see(tap_of(back) + c) * see(in_X + c - back * size.X);
                see(raw + c) = sum;
            });
            for (long c = 0; c < size.X; c++) mixed[c] = silu(raw[c]);
        }
    }

    // What a head adds to its state at each byte of the piece, and how its state decays before.
    void take_head(int h) {
        for (int q = 0; q < bytes; q++) {
            const float dt = dt_of(q, h), *__restrict x = x_of(q, h);
            float* __restrict sent = sent_QP.data() + q * size.padded;
            for (int p = 0; p < size.P; p++) sent[p] = x[p] * dt;
            decay_Q[q] = std::exp(dt * mixer.rate_H[h]);
        }
    }

    float dt_of(int q, int h) const { return dt_LH[(first + q) * size.H + h]; }
    const float* x_of(int q, int h) const { return mixed_QX.data() + q * size.X + h * size.P; }
    const float* B_of(int q) const { return mixed_QX.data() + q * size.X + size.I; }
    const float* C_of(int q) const { return B_of(q) + size.N; }

    const Sizes size;
    const Mixer& mixer;
    const float *in_LX, *dt_LH;
    const int64_t* document_L;
    std::vector<float> raw_QX, mixed_QX, sent_QP, decay_Q;  // sent is zero where it is padded
    std::vector<char> starts_Q;
    long first = 0;
    int bytes = 0;
};

// A state of nothing, whatever it was: 0 times what is not finite would not be.
template <int tile, int V>
inline void clear(Lanes (&at)[tile][V]) {
    for (int i = 0; i < tile; i++)
        for (int v = 0; v < V; v++) at[i][v] = Lanes{};  // no auto: a deduced type forgets that Lanes may lie anywhere
}

// `tile` rows n of a head's state and V * LANES of its numbers, through the bytes of a piece: they stay in registers.
// state goes on; what is read of it is added to y [Q, across].
template <int V, int tile>
void scan_tile(const Row& row, float* state, int n, const float* sent, float* y) {
    const long across = row.size.padded;
    Lanes at[tile][V];
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) at[i][v] = lanes(state + i * across + v * LANES);
    for (int q = 0; q < row.bytes; q++, sent += across, y += across) {
        const float *B = row.B_of(q) + n, *C = row.C_of(q) + n, decay = row.decay_Q[q];
        if (row.starts_Q[q]) clear(at);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            const Lanes add = lanes(sent + v * LANES);
            Lanes read = lanes(y + v * LANES);
#pragma GCC unroll 4
            for (int i = 0; i < tile; i++) {
                at[i][v] = at[i][v] * decay + B[i] * add;
                read += C[i] * at[i][v];
            }
            lanes(y + v * LANES) = read;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) lanes(state + i * across + v * LANES) = at[i][v];
}

// What the gradients of a piece are added up in, for one head.
struct Sums {
    float *dsent_QP, *both_Q;  // both: <dstate, state before>, in lanes
    float *dB_QN, *dC_QN;       // in lanes, of all heads
};

// The same backwards, from the state before the piece and the gradient of the state behind it, which goes on.
template <int V, int tile>
void unscan_tile(const Row& row, const float* state, float* dstate, int n, const float* sent, const float* dy,
                 const Sums& to) {
    const long across = row.size.padded, N = row.size.N;
    Lanes at[tile][V], states[PIECE + 1][tile][V];  // before the first byte, and behind each
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) states[0][i][v] = at[i][v] = lanes(state + i * across + v * LANES);
    for (int q = 0; q < row.bytes; q++) {
        const float *B = row.B_of(q) + n, decay = row.decay_Q[q];
        if (row.starts_Q[q]) clear(at);
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            const Lanes add = lanes(sent + q * across + v * LANES);
#pragma GCC unroll 4
            for (int i = 0; i < tile; i++) states[q + 1][i][v] = at[i][v] = at[i][v] * decay + B[i] * add;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) at[i][v] = lanes(dstate + i * across + v * LANES);
    for (int q = row.bytes - 1; q >= 0; q--) {
        const float *B = row.B_of(q) + n, *C = row.C_of(q) + n, decay = row.decay_Q[q];
        Lanes dB[tile] = {}, dC[tile] = {}, both = {};
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            const Lanes add = lanes(sent + q * across + v * LANES), out = lanes(dy + q * across + v * LANES);
            Lanes sum = lanes(to.dsent_QP + q * across + v * LANES);
#pragma GCC unroll 4
            for (int i = 0; i < tile; i++) {
                at[i][v] += C[i] * out;
                dC[i] += states[q + 1][i][v] * out;
                dB[i] += at[i][v] * add;
                sum += B[i] * at[i][v];
                both += at[i][v] * states[q][i][v];
                at[i][v] *= decay;
            }
            lanes(to.dsent_QP + q * across + v * LANES) = sum;
        }
        lanes(to.both_Q + q * LANES) += both;
#pragma GCC unroll 4
        for (int i = 0; i < tile; i++) {
            lanes(to.dB_QN + (q * N + n + i) * LANES) += dB[i];
            lanes(to.dC_QN + (q * N + n + i) * LANES) += dC[i];
        }
        if (row.starts_Q[q]) clear(at);
    }
#pragma GCC unroll 4
    for (int i = 0; i < tile; i++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) lanes(dstate + i * across + v * LANES) = at[i][v];
}

// call<V, tile>(first lane, first n) for all of a head's state, in blocks of four, two and one times LANES.
template <int V, int tile, typename Call>
void over_rows(int at, int N, const Call& call) {
    int n = 0;
    for (; n + tile <= N; n += tile) call(std::integral_constant<int, V>(), std::integral_constant<int, tile>(), at, n);
    for (; n < N; n++) call(std::integral_constant<int, V>(), std::integral_constant<int, 1>(), at, n);
}

template <int tile, typename Call>
void over_state(const Sizes& size, const Call& call) {
    int v = 0;
    for (; v + 4 <= size.V; v += 4) over_rows<4, tile>(v * LANES, size.N, call);
    for (; v + 2 <= size.V; v += 2) over_rows<2, tile>(v * LANES, size.N, call);
    for (; v < size.V; v++) over_rows<1, tile>(v * LANES, size.N, call);
}

inline float total(const Lanes& of) {
    typedef float Half __attribute__((vector_size(LANES / 2 * sizeof(float))));
    typedef float Quarter __attribute__((vector_size(LANES / 4 * sizeof(float))));
    Half halves[2];
    std::memcpy(halves, &of, sizeof halves);
    const Half half = halves[0] + halves[1];
    Quarter quarters[2];
    std::memcpy(quarters, &half, sizeof quarters);
    const Quarter quarter = quarters[0] + quarters[1];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

void mix_row(const Mixer& mixer, int number, float* y_LI, float* kept, float* final_NI) {
    Row row(mixer, number);
    const Sizes& size = row.size;
    std::vector<float> states(size.H * size.state()), y_QP(PIECE * size.padded);
    for (long piece = 0; piece < size.pieces; piece++) {
        row.take(piece);
        if (kept) std::memcpy(kept + piece * states.size(), states.data(), sizeof(float) * states.size());
        for (int h = 0; h < size.H; h++) {
            float* state = states.data() + h * size.state();
            row.take_head(h);
            std::fill(y_QP.begin(), y_QP.end(), 0.0f);
            over_state<4>(size, [&](auto V, auto tile, int at, int n) {
                scan_tile<V, tile>(row, state + n * size.padded + at, n, row.sent_QP.data() + at, y_QP.data() + at);
            });
            for (int q = 0; q < row.bytes; q++) {
                const float *__restrict x = row.x_of(q, h), *__restrict read = y_QP.data() + q * size.padded;
                float* __restrict y = y_LI + (row.first + q) * size.I + h * size.P;
                for (int p = 0; p < size.P; p++) y[p] = read[p] + mixer.skip_H[h] * x[p];
            }
        }
    }
    if (final_NI)
        for (int h = 0; h < size.H; h++)
            for (int n = 0; n < size.N; n++)
                std::memcpy(final_NI + n * size.I + h * size.P, states.data() + h * size.state() + n * size.padded,
                            sizeof(float) * size.P);
}

// The gradient behind the convolution becomes that of its input, in place: a byte hears of those ahead of it.
void unconvolve(const Row& row, float* din_LX, float* dtaps_WX, float* dbias_X) {
    const Sizes& size = row.size;
    for (long t = 0; t < size.L; t++) {
        float* here = din_LX + t * size.X;
        const float* in_X = row.in_LX + t * size.X;
        const int reach = row.before(t, size.W - 1);
        int ahead = 0;
        while (ahead < size.W - 1 && t + ahead + 1 < size.L && !row.starts(t + ahead + 1)) ahead++;
        in_lanes(size.X, [&](long c, auto see) {
            const auto own = see(here + c);
            auto sum = own * see(row.tap_of(0) + c);
            see(dbias_X + c) += own;
            for (int back = 0; back <= reach; back++)
                see(dtaps_WX + (size.W - 1 - back) * size.X + c) += own * see(in_X + c - back * size.X);
            for (int later = 1; later <= ahead; later++)
                sum += see(row.tap_of(later) + c) * see(here + c + later * size.X);
            see(here + c) = sum;
        });
    }
}

struct Gradients {
    float *in_BLX, *dt_BLH;                              // of each byte
    float *rate_BH, *skip_BH, *taps_BWX, *bias_BX;       // of each row, zero before
};

void unmix_row(const Mixer& mixer, int number, const float* dy_LI, const float* kept, const Gradients& to) {
    Row row(mixer, number);
    const Sizes& size = row.size;
    float* din_LX = to.in_BLX + number * size.L * size.X;
    float* ddt_LH = to.dt_BLH + static_cast<long>(number) * size.L * size.H;
    float *drate_H = to.rate_BH + number * size.H, *dskip_H = to.skip_BH + number * size.H;
    const long all = size.H * size.state(), wide = PIECE * size.padded;
    std::vector<float> dstates(all), dy_QP(wide), dsent_QP(wide), both_Q(PIECE * LANES), dB_QN(PIECE * size.N * LANES),
        dC_QN(PIECE * size.N * LANES);
    const Sums sums{dsent_QP.data(), both_Q.data(), dB_QN.data(), dC_QN.data()};
    for (long piece = size.pieces - 1; piece >= 0; piece--) {
        row.take(piece);
        for (auto* each : {&dB_QN, &dC_QN}) std::fill(each->begin(), each->end(), 0.0f);
        for (int h = 0; h < size.H; h++) {
            const float* state = kept + piece * all + h * size.state();
            float* dstate = dstates.data() + h * size.state();
            row.take_head(h);
            for (auto* each : {&dsent_QP, &both_Q}) std::fill(each->begin(), each->end(), 0.0f);
            for (int q = 0; q < row.bytes; q++)
                std::memcpy(dy_QP.data() + q * size.padded, dy_LI + (row.first + q) * size.I + h * size.P,
                            sizeof(float) * size.P);
            over_state<2>(size, [&](auto V, auto tile, int at, int n) {
                const long here = n * size.padded + at;
                const Sums from{sums.dsent_QP + at, sums.both_Q, sums.dB_QN, sums.dC_QN};
                unscan_tile<V, tile>(row, state + here, dstate + here, n, row.sent_QP.data() + at, dy_QP.data() + at,
                                     from);
            });
            for (int q = 0; q < row.bytes; q++) {
                const long t = row.first + q;
                const float *__restrict x = row.x_of(q, h), *__restrict dy = dy_QP.data() + q * size.padded;
                const float *__restrict dsent = dsent_QP.data() + q * size.padded, dt = row.dt_of(q, h);
                float *__restrict dx = din_LX + t * size.X + h * size.P, ddt = 0.0f, skipped = 0.0f;
#pragma omp simd reduction(+ : ddt, skipped)
                for (int p = 0; p < size.P; p++) {
                    ddt += dsent[p] * x[p];
                    skipped += dy[p] * x[p];
                }
                for (int p = 0; p < size.P; p++) dx[p] = dsent[p] * dt + mixer.skip_H[h] * dy[p];
                const float dlog = row.starts_Q[q] ? 0.0f : row.decay_Q[q] * total(lanes(both_Q.data() + q * LANES));
                ddt_LH[t * size.H + h] = ddt + dlog * mixer.rate_H[h];
                drate_H[h] += dlog * dt;
                dskip_H[h] += skipped;
            }
        }
        for (int q = 0; q < row.bytes; q++) {
            float* __restrict din = din_LX + (row.first + q) * size.X;
            for (int n = 0; n < size.N; n++) {
                din[size.I + n] = total(lanes(dB_QN.data() + (q * size.N + n) * LANES));
                din[size.I + size.N + n] = total(lanes(dC_QN.data() + (q * size.N + n) * LANES));
            }
            const float* __restrict raw = row.raw_QX.data() + q * size.X;
            for (long c = 0; c < size.X; c++) {
                const float gate = 1.0f / (1.0f + exponential(-raw[c]));
                din[c] *= gate * (1.0f + raw[c] * (1.0f - gate));
            }
        }
    }
    unconvolve(row, din_LX, to.taps_BWX + number * size.W * size.X, to.bias_BX + number * size.X);
}

}  // namespace

extern "C" {

// y [B, L, I]. kept: room for [B, pieces, H, N, V LANES], or null; final: the state after the last byte [B, N, I], or
// null.
void mix_rows(const Mixer* mixer, float* y, float* kept, float* final, int parts) {
    const Sizes size(*mixer);
    const long of_row = size.pieces * size.H * size.state();
    in_parts(parts, mixer->rows, [=](int, long first, int some) {
        for (long row = first; row < first + some; row++)
            mix_row(*mixer, row, y + row * size.L * size.I, kept ? kept + row * of_row : nullptr,
                    final ? final + row * size.N * size.I : nullptr);
    });
}

void unmix_rows(const Mixer* mixer, const float* dy, const float* kept, const Gradients* to, int parts) {
    const Sizes size(*mixer);
    const long of_row = size.pieces * size.H * size.state();
    in_parts(parts, mixer->rows, [=](int, long first, int some) {
        for (long row = first; row < first + some; row++)
            unmix_row(*mixer, row, dy + row * size.L * size.I, kept + row * of_row, *to);
    });
}
}
