/* Whole decode steps of Llama-shaped models, in one parallel region; llama.py mirrors the structs. */
#include "linear.c"

typedef struct {
    const float *a; /* [rows][rank][d_in], or none */
    const float *b; /* [rows][rank][d_out] */
} Pair;

enum { Q, K, V, O, GATE, UP, DOWN, N_MATRICES };

typedef struct {
    const float *attention_norm, *mlp_norm;
    Matrix matrices[N_MATRICES];
} Layer;

typedef struct {
    int64_t n_layers, d, heads, kv_heads, d_head, d_mlp;
    float eps, scaling;
    const Layer *layers;
    const float *norm;
    Matrix head;
    const uint16_t *embedding; /* bfloat16 [vocabulary][d] */
} Model;

typedef struct {
    int64_t rows, rank, first, length, threads;
    const int64_t *ids, *positions;
    const float *cos, *sin;     /* [rows][d_head] */
    uint16_t *const *keys;      /* per layer, bfloat16 [bank rows][kv_heads][length][d_head] */
    uint16_t *const *values;
    const Pair *pairs;          /* [n_layers][N_MATRICES] */
    float *scratch;             /* see t2l_scratch */
    float *logits;              /* [rows][vocabulary] */
} Step;

/* hidden -> bfloat16 of its RMS norm, and the sums of its groups. */
static void normed(const float *hidden, const float *weight, int64_t d, float eps, uint16_t *x) {
    __m512 squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < d; i += 16) {
        __m512 h = _mm512_loadu_ps(hidden + i);
        squares = _mm512_fmadd_ps(h, h, squares);
    }
    __m512 by = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)d + eps));
    for (int64_t i = 0; i < d; i += 16) {
        __m512 h = _mm512_mul_ps(_mm512_loadu_ps(hidden + i), by);
        store_bf16(x + i, _mm512_mul_ps(h, _mm512_loadu_ps(weight + i)));
    }
}

INLINE __m512 exponential(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-87.0f), x); /* in this order NaN stays NaN */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    const float c[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                       4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    __m512 p = _mm512_set1_ps(c[0]);
    for (int i = 1; i < 6; i++) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
    p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(p, n);
}

/* What a thread needs to multiply rows with one matrix and their adapters. */
typedef struct {
    const Matrix *m;
    const float *b, *low; /* the adapters' [rows][rank][d_out] and A x, [rows][rank] */
    int64_t rank;
} Adapted;

/* sums[r] of one strip for n rows from row r on. */
INLINE void adapted_strip(const Adapted *a, int64_t s, int64_t r, int n, const uint16_t *x,
                          const float *totals, __m512i table, __m512 *sums) {
    const Matrix *m = a->m;
    STRIPS[n](m, s, x + r * m->d_in, m->d_in, totals + r * m->d_in / GROUP, table, sums);
    if (!a->b) return;
    for (int i = 0; i < n; i++)
        for (int64_t k = 0; k < a->rank; k++) {
            const int64_t at = (r + i) * a->rank + k;
            sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(a->low[at]),
                                      _mm512_loadu_ps(a->b + at * m->d_out + s * STRIP), sums[i]);
        }
}

/* y += sums, of one strip for n rows from row r on. */
INLINE void add_strip(const Adapted *a, int64_t s, int64_t r, int n, const uint16_t *x,
                      const float *totals, __m512i table, float *y) {
    __m512 sums[BLOCK];
    adapted_strip(a, s, r, n, x, totals, table, sums);
    for (int i = 0; i < n; i++) {
        float *at = y + (r + i) * a->m->d_out + s * STRIP;
        _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), sums[i]));
    }
}

/* low = A x for the rows of one thread. */
static void lower(const Pair *pair, int64_t d_in, int64_t rank, const uint16_t *x, int64_t from,
                  int64_t to, float *low) {
    for (int64_t at = from * rank; at < to * rank; at++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < d_in; i += 16)
            sum = _mm512_fmadd_ps(
                _mm512_loadu_ps(pair->a + at * d_in + i),
                widen(_mm256_loadu_si256((const __m256i *)(x + at / rank * d_in + i))), sum);
        low[at] = _mm512_reduce_add_ps(sum);
    }
}

/* One query's attention over n keys of bfloat16; scores has room for n and 16 more. */
static void attend(const float *q, const uint16_t *keys, const uint16_t *values, int64_t n,
                   int64_t d_head, float scaling, float *scores, uint16_t *out) {
    float most = -INFINITY;
    for (int64_t j = 0; j < n; j++) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = 0; i < d_head; i += 16)
            sum = _mm512_fmadd_ps(
                widen(_mm256_loadu_si256((const __m256i *)(keys + j * d_head + i))),
                _mm512_loadu_ps(q + i), sum);
        scores[j] = _mm512_reduce_add_ps(sum) * scaling;
        most = fmaxf(most, scores[j]);
    }
    for (int64_t j = n; j < n + 16; j++) scores[j] = -INFINITY;
    __m512 all = _mm512_setzero_ps(), top = _mm512_set1_ps(most);
    for (int64_t j = 0; j < n; j += 16) {
        __mmask16 live = n - j < 16 ? (1 << (n - j)) - 1 : 0xffff;
        __m512 e = exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + j), top));
        e = _mm512_maskz_mov_ps(live, e);
        _mm512_storeu_ps(scores + j, e);
        all = _mm512_add_ps(all, e);
    }
    __m512 by = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(all));
    for (int64_t i = 0; i < d_head; i += 16) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t j = 0; j < n; j++)
            sum = _mm512_fmadd_ps(
                widen(_mm256_loadu_si256((const __m256i *)(values + j * d_head + i))),
                _mm512_set1_ps(scores[j]), sum);
        store_bf16(out + i, _mm512_mul_ps(sum, by));
    }
}

INLINE void rotate(const float *x, const float *cos, const float *sin, int64_t d, float *out) {
    for (int64_t i = 0; i < d / 2; i++) {
        out[i] = x[i] * cos[i] - x[i + d / 2] * sin[i];
        out[i + d / 2] = x[i + d / 2] * cos[i + d / 2] + x[i] * sin[i + d / 2];
    }
}

/* Floats that a step works in. */
int64_t t2l_scratch(const Model *m, int64_t rows, int64_t rank, int64_t length, int64_t threads) {
    const int64_t d_q = m->heads * m->d_head, d_kv = m->kv_heads * m->d_head;
    const int64_t widest = m->d_mlp > d_q ? (m->d_mlp > m->d ? m->d_mlp : m->d)
                                          : (d_q > m->d ? d_q : m->d);
    const int64_t a_thread = rows * (m->d + widest) + length + 16 + 2 * m->d_head;
    return rows * (m->d + 2 * d_q + 2 * d_kv + m->d_mlp + N_MATRICES * rank) +
           threads * (a_thread + 64) + 64;
}

/* Read one token of each row. */
void t2l_step(const Model *model, const Step *step) {
    const int64_t R = step->rows, d = model->d, dh = model->d_head, heads = model->heads;
    const int64_t d_q = heads * dh, d_kv = model->kv_heads * dh, d_mlp = model->d_mlp;
    const int64_t groups = heads / model->kv_heads, rank = step->rank;
    float *hidden = step->scratch, *q = hidden + R * d, *k = q + R * d_q, *v = k + R * d_kv;
    float *low = v + R * d_kv, *rest = low + R * N_MATRICES * rank;
    uint16_t *mixed = (uint16_t *)rest, *gated = mixed + 2 * R * d_q;
    float *private = rest + R * d_q + R * d_mlp;
    const int64_t widest = d_mlp > d_q ? (d_mlp > d ? d_mlp : d) : (d_q > d ? d_q : d);
    const int64_t a_thread = R * (d + widest) + step->length + 16 + 2 * dh + 64;
#pragma omp parallel num_threads(step->threads)
    {
        const int me = omp_get_thread_num(), threads = omp_get_num_threads();
        const __m512i table = integers_as_bf16();
        uint16_t *x = (uint16_t *)(private + me * a_thread);
        float *totals = private + me * a_thread + R * d;
        float *scores = totals + R * widest, *turned = scores + step->length + 16;
        int64_t from, to, first_row, last_row;
        share(R, me, threads, &first_row, &last_row);

#define NORM(weight)                                                                               \
    for (int64_t r = 0; r < R; r++) {                                                              \
        normed(hidden + r * d, weight, d, model->eps, x + r * d);                                  \
        total(x + r * d, d, totals + r * d / GROUP);                                               \
    }
#define TOTAL(of, width)                                                                           \
    for (int64_t r = 0; r < R; r++) total((of) + r * (width), width, totals + r * (width) / GROUP);
/* A x of one matrix's adapters; what follows needs all rows'. */
#define LOWER(i, of)                                                                               \
    if (pairs && pairs[i].a) {                                                                     \
        lower(&pairs[i], layer->matrices[i].d_in, rank, of, first_row, last_row,                   \
              low + R * rank * (i));                                                               \
        is_lower = 1;                                                                              \
    }
#define TOGETHER                                                                                   \
    if (is_lower) {                                                                                \
        _Pragma("omp barrier") is_lower = 0;                                                       \
    }
#define ADAPTED(i)                                                                                 \
    {&layer->matrices[i], pairs ? pairs[i].b : 0, low + R * rank * (i), rank}
#define EACH_BLOCK(n_strips)                                                                       \
    share(n_strips, me, threads, &from, &to);                                                      \
    for (int64_t s = from; s < to; s++)                                                            \
        for (int64_t r = 0; r < R; r += BLOCK)
/* hidden += what one matrix and its adapters make of a row. */
#define RESIDUAL(i, of, width)                                                                     \
    {                                                                                              \
        TOTAL(of, width)                                                                           \
        LOWER(i, of) TOGETHER                                                                      \
        const Adapted a = ADAPTED(i);                                                              \
        EACH_BLOCK(d / STRIP)                                                                      \
            add_strip(&a, s, r, R - r < BLOCK ? R - r : BLOCK, of, totals, table, hidden);         \
    }

        for (int64_t r = first_row; r < last_row; r++)
            for (int64_t i = 0; i < d; i++)
                hidden[r * d + i] = from_bf16(model->embedding[step->ids[r] * d + i]);
#pragma omp barrier
        for (int64_t n_layer = 0; n_layer < model->n_layers; n_layer++) {
            const Layer *layer = model->layers + n_layer;
            const Pair *pairs = step->pairs ? step->pairs + n_layer * N_MATRICES : 0;
            int is_lower = 0;
            __m512 sums[BLOCK], more[BLOCK];

            NORM(layer->attention_norm)
            LOWER(Q, x) LOWER(K, x) LOWER(V, x) TOGETHER
            const Adapted qkv[] = {ADAPTED(Q), ADAPTED(K), ADAPTED(V)};
            float *const outs[] = {q, k, v};
            EACH_BLOCK((d_q + 2 * d_kv) / STRIP) {
                const int64_t a = d_q / STRIP, b = a + d_kv / STRIP;
                const int which = s < a ? 0 : s < b ? 1 : 2, n = R - r < BLOCK ? R - r : BLOCK;
                const int64_t own = s - (which == 0 ? 0 : which == 1 ? a : b);
                adapted_strip(&qkv[which], own, r, n, x, totals, table, sums);
                for (int i = 0; i < n; i++)
                    _mm512_storeu_ps(outs[which] + (r + i) * (which ? d_kv : d_q) + own * STRIP,
                                     sums[i]);
            }
#pragma omp barrier
            share(R * model->kv_heads, me, threads, &from, &to);
            for (int64_t item = from; item < to; item++) {
                const int64_t r = item / model->kv_heads, head = item % model->kv_heads;
                const int64_t place = ((step->first + r) * model->kv_heads + head) * step->length;
                const int64_t at = step->positions[r];
                uint16_t *keys = step->keys[n_layer] + place * dh;
                uint16_t *values = step->values[n_layer] + place * dh;
                const float *cos = step->cos + r * dh, *sin = step->sin + r * dh;
                rotate(k + r * d_kv + head * dh, cos, sin, dh, turned);
                for (int64_t i = 0; i < dh; i++) {
                    keys[at * dh + i] = to_bf16(turned[i]);
                    values[at * dh + i] = to_bf16(v[r * d_kv + head * dh + i]);
                }
                for (int64_t g = head * groups; g < (head + 1) * groups; g++) {
                    rotate(q + r * d_q + g * dh, cos, sin, dh, turned);
                    attend(turned, keys, values, at + 1, dh, model->scaling, scores,
                           mixed + r * d_q + g * dh);
                }
            }
#pragma omp barrier
            RESIDUAL(O, mixed, d_q)
#pragma omp barrier
            NORM(layer->mlp_norm)
            LOWER(GATE, x) LOWER(UP, x) TOGETHER
            const Adapted gate = ADAPTED(GATE), up = ADAPTED(UP);
            EACH_BLOCK(d_mlp / STRIP) {
                const int n = R - r < BLOCK ? R - r : BLOCK;
                adapted_strip(&gate, s, r, n, x, totals, table, sums);
                adapted_strip(&up, s, r, n, x, totals, table, more);
                for (int i = 0; i < n; i++) {
                    __m512 e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), sums[i]));
                    __m512 silu = _mm512_div_ps(sums[i], _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
                    store_bf16(gated + (r + i) * d_mlp + s * STRIP, _mm512_mul_ps(silu, more[i]));
                }
            }
#pragma omp barrier
            RESIDUAL(DOWN, gated, d_mlp)
#pragma omp barrier
        }
        NORM(model->norm)
        const Adapted head = {&model->head, 0, 0, 0};
        EACH_BLOCK(model->head.d_out / STRIP) {
            const int n = R - r < BLOCK ? R - r : BLOCK;
            __m512 sums[BLOCK];
            adapted_strip(&head, s, r, n, x, totals, table, sums);
            for (int i = 0; i < n; i++)
                _mm512_storeu_ps(step->logits + (r + i) * head.m->d_out + s * STRIP, sums[i]);
        }
    }
}
