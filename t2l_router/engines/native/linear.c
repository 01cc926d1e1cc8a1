/*
 * Products with a base model's weights on CPUs with AVX-512 and bfloat16 products. Plain C without
 * torch's headers, so that it builds in seconds; weights.py makes the layouts and mirrors Matrix.
 *
 * Weights lie in strips of 16 outputs, a lane each; inputs come in pairs, as the product wants them.
 * Activations are rounded to bfloat16 before a product, as a model in bfloat16 has them; sums are
 * float32. A row's sums are formed in the same order whatever else is in the batch.
 */
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#if !defined(__AVX512BF16__) || !defined(__AVX512BW__) || !defined(__AVX512VL__)
#error "this CPU has no bfloat16 products"
#endif

#define GROUP 32   /* inputs that share a scale */
#define STRIP 16   /* outputs in a vector */
#define BLOCK 8    /* rows at once */
#define INLINE static inline __attribute__((always_inline))

typedef struct {
    int64_t bits;           /* 4: w = q * scale + zero; 8: w = q * scale; 16: bfloat16 */
    int64_t d_out, d_in;
    const uint8_t *weights;
    const uint16_t *scales; /* float16 [strip][group][16] */
    const uint16_t *zeros;
    const float *bias;      /* [d_out], or none */
} Matrix;

INLINE float from_bf16(uint16_t x) {
    union { uint32_t i; float f; } u = {(uint32_t)x << 16};
    return u.f;
}

INLINE uint16_t to_bf16(float x) {
    union { float f; uint32_t i; } u = {x};
    return (u.i + 0x7fff + ((u.i >> 16) & 1)) >> 16;
}

INLINE __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

INLINE __m512 load_half(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}

INLINE void store_bf16(uint16_t *to, __m512 x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

static __m512i integers_as_bf16(void) {
    uint16_t table[32];
    for (int i = 0; i < 32; i++) table[i] = to_bf16((float)(i & 15));
    return _mm512_loadu_si512(table);
}

/* sums[r] = the strip's outputs for R rows, in an order that doesn't depend on R. */
INLINE void strip(const int R, const int BITS, const Matrix *m, int64_t s, const uint16_t *x,
                  int64_t stride, const float *totals, __m512i table, __m512 *sums) {
    enum { MOST = 2 * BLOCK };
    const int P = BITS == 16 ? 2 : 1; /* a long chain of sums would wait for itself */
    const int64_t n_groups = m->d_in / GROUP;
    const uint8_t *w = m->weights + s * STRIP * m->d_in * BITS / 8;
    const uint16_t *scales = m->scales + s * n_groups * STRIP;
    const uint16_t *zeros = m->zeros + s * n_groups * STRIP;
    __m512 part[MOST];
    for (int i = 0; i < R; i++) sums[i] = _mm512_setzero_ps();
    for (int i = 0; i < R * P; i++) part[i] = _mm512_setzero_ps();
    for (int64_t g = 0; g < n_groups; g++) {
        const uint16_t *xg = x + g * GROUP;
        if (BITS != 16)
            for (int i = 0; i < R * P; i++) part[i] = _mm512_setzero_ps();
        __m512i packed = _mm512_setzero_si512();
#pragma GCC unroll 16
        for (int p = 0; p < GROUP / 2; p++) {
            __m512i pair;
            if (BITS == 4) {
                if (p % 4 == 0) packed = _mm512_loadu_si512(w + (g * 4 + p / 4) * 64);
                pair = _mm512_and_si512(_mm512_srli_epi16(packed, 4 * (p % 4)), _mm512_set1_epi16(15));
                pair = _mm512_permutexvar_epi16(pair, table);
            } else if (BITS == 8) {
                const __m128i *q = (const __m128i *)(w + (g * 16 + p) * 32);
                __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q)));
                __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + 1)));
                pair = (__m512i)_mm512_cvtne2ps_pbh(high, low);
            } else {
                pair = _mm512_loadu_si512(w + (g * 16 + p) * 64);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                int32_t two;
                memcpy(&two, xg + r * stride + 2 * p, 4);
                __m512 *to = &part[r * P + p % P];
                *to = _mm512_dpbf16_ps(*to, (__m512bh)pair, (__m512bh)_mm512_set1_epi32(two));
            }
        }
        if (BITS == 16) continue;
        __m512 scale = load_half(scales + g * STRIP);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            sums[r] = _mm512_fmadd_ps(part[r], scale, sums[r]);
            if (BITS == 4)
                sums[r] = _mm512_fmadd_ps(load_half(zeros + g * STRIP),
                                          _mm512_set1_ps(totals[r * n_groups + g]), sums[r]);
        }
    }
    for (int r = 0; r < R; r++) {
        if (BITS == 16) sums[r] = _mm512_add_ps(part[r * P], part[r * P + P - 1]);
        if (m->bias) sums[r] = _mm512_add_ps(sums[r], _mm512_loadu_ps(m->bias + s * STRIP));
    }
}

#define ROWS(R)                                                                                    \
    static void strip_##R(const Matrix *m, int64_t s, const uint16_t *x, int64_t stride,           \
                          const float *totals, __m512i table, __m512 *sums) {                      \
        if (m->bits == 4) strip(R, 4, m, s, x, stride, totals, table, sums);                       \
        else if (m->bits == 8) strip(R, 8, m, s, x, stride, totals, table, sums);                  \
        else strip(R, 16, m, s, x, stride, totals, table, sums);                                   \
    }
ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6) ROWS(7) ROWS(8)
typedef void (*StripFunction)(const Matrix *, int64_t, const uint16_t *, int64_t, const float *,
                              __m512i, __m512 *);
static const StripFunction STRIPS[BLOCK + 1] = {0,       strip_1, strip_2, strip_3, strip_4,
                                                strip_5, strip_6, strip_7, strip_8};

/*
 * Find the integers and scales that groups of 32 bfloat16 weights were made from, so that these give
 * every bit of them again; 0 if that fails for any group. Half a dozen float16 numbers on either side
 * are tried for a scale and a zero, nearest first.
 */
int t2l_find_grid(const uint16_t *weights, int64_t n_groups, int64_t bits, int8_t *integers,
                  uint16_t *scales, uint16_t *zeros) {
    enum { NEAR = 6 };
    int fits = 1;
#pragma omp parallel for reduction(&& : fits)
    for (int64_t g = 0; g < n_groups; g++) {
        if (!fits) continue;
        const __m256i *at = (const __m256i *)(weights + g * GROUP);
        const __m256i exact[2] = {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
        const __m512 w[2] = {widen(exact[0]), widen(exact[1])};
        const float least = fminf(_mm512_reduce_min_ps(w[0]), _mm512_reduce_min_ps(w[1]));
        const float most = fmaxf(_mm512_reduce_max_ps(w[0]), _mm512_reduce_max_ps(w[1]));
        __m512 q[2];
        float scale = bits == 4 ? (most - least) / 15 : fmaxf(most, -least) / 127, zero = 0;
        if (bits == 4) { /* least squares come nearer than the ends do */
            float sum_q = 0, sum_qq = 0, sum_w = 0, sum_qw = 0;
            const __m512 by = _mm512_set1_ps(scale > 0 ? 1 / scale : 0);
            for (int i = 0; i < 2; i++) {
                const __m512 above = _mm512_sub_ps(w[i], _mm512_set1_ps(least));
                q[i] = _mm512_roundscale_ps(_mm512_mul_ps(above, by), 0);
                sum_q += _mm512_reduce_add_ps(q[i]);
                sum_w += _mm512_reduce_add_ps(w[i]);
                sum_qq += _mm512_reduce_add_ps(_mm512_mul_ps(q[i], q[i]));
                sum_qw += _mm512_reduce_add_ps(_mm512_mul_ps(q[i], w[i]));
            }
            const float spread = GROUP * sum_qq - sum_q * sum_q;
            scale = spread > 0 ? (GROUP * sum_qw - sum_q * sum_w) / spread : 0;
            zero = (sum_w - scale * sum_q) / GROUP;
        }
        const uint16_t first_scale = _cvtss_sh(scale, 0), first_zero = _cvtss_sh(zero, 0);
        int found = 0;
        for (int i = 0; i <= 2 * NEAR && !found; i++)
            for (int j = 0; j <= (bits == 4 ? 2 * NEAR : 0) && !found; j++) {
                const uint16_t s = first_scale + (i % 2 ? -(i + 1) / 2 : i / 2);
                const uint16_t z = first_zero + (j % 2 ? -(j + 1) / 2 : j / 2);
                const float by = _cvtsh_ss(s);
                found = 1;
                for (int k = 0; k < 2 && found; k++) {
                    if (bits == 8) {
                        const __m512 inverse = _mm512_set1_ps(by > 0 ? 1 / by : 0);
                        q[k] = _mm512_roundscale_ps(_mm512_mul_ps(w[k], inverse), 0);
                    }
                    const __m512 made =
                        _mm512_fmadd_ps(q[k], _mm512_set1_ps(by), _mm512_set1_ps(_cvtsh_ss(z)));
                    found = _mm256_cmpeq_epi16_mask((__m256i)_mm512_cvtneps_pbh(made), exact[k]) ==
                            0xffff;
                }
                scales[g] = s;
                zeros[g] = z;
            }
        for (int k = 0; k < 2; k++)
            _mm_storeu_si128((__m128i *)(integers + g * GROUP + 16 * k),
                             _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(q[k])));
        fits = fits && found;
    }
    return fits;
}

/* The sum of each group of inputs, which a zero point is multiplied by. */
static void total(const uint16_t *x, int64_t d_in, float *totals) {
    for (int64_t g = 0; g < d_in / GROUP; g++) {
        const __m256i *at = (const __m256i *)(x + g * GROUP);
        totals[g] = _mm512_reduce_add_ps(
            _mm512_add_ps(widen(_mm256_loadu_si256(at)), widen(_mm256_loadu_si256(at + 1))));
    }
}

INLINE void share(int64_t n, int thread, int threads, int64_t *from, int64_t *to) {
    *from = n * thread / threads;
    *to = n * (thread + 1) / threads;
}

/* y = x W^T; x and y bfloat16 [rows][d], totals float32 [rows][d_in / 32] to work in. */
void t2l_linear(const Matrix *m, int64_t rows, const uint16_t *x, uint16_t *y, float *totals,
                int64_t threads) {
    const int64_t n_groups = m->d_in / GROUP;
#pragma omp parallel num_threads(threads)
    {
        int64_t from, to;
        __m512i table = integers_as_bf16();
        share(rows, omp_get_thread_num(), omp_get_num_threads(), &from, &to);
        for (int64_t r = from; r < to; r++) total(x + r * m->d_in, m->d_in, totals + r * n_groups);
#pragma omp barrier
        share(m->d_out / STRIP, omp_get_thread_num(), omp_get_num_threads(), &from, &to);
        for (int64_t s = from; s < to; s++)
            for (int64_t r = 0; r < rows; r += BLOCK) {
                int n = rows - r < BLOCK ? (int)(rows - r) : BLOCK;
                __m512 sums[BLOCK];
                STRIPS[n](m, s, x + r * m->d_in, m->d_in, totals + r * n_groups, table, sums);
                for (int i = 0; i < n; i++) store_bf16(y + (r + i) * m->d_out + s * STRIP, sums[i]);
            }
    }
}

