// One step of a Llama-like decoder for few rows at a time, on a CPU: all layers in one call.
//
// Products of few rows with large matrices are bound by reading the matrix. Weights lie in panels
// of PANEL outputs, inputs in pairs: [panel][input / 2][PANEL][2], in the order in which they are
// read. A row's sums run over the inputs in that order whatever other rows there are, so that its
// bits do not depend on its company, on prefill or step, or on the number of threads.
//
// Built by native.py, which mirrors the structs; plain C interface, no headers of torch.

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
#include <immintrin.h>
#define DOT_BF16 1
#endif

namespace {

constexpr int LANES = 16, PANEL = 32, TILE = 8;
typedef float f32 __attribute__((vector_size(4 * LANES)));
typedef int32_t i32 __attribute__((vector_size(4 * LANES)));
typedef uint32_t u32 __attribute__((vector_size(4 * LANES)));
typedef int16_t i16 __attribute__((vector_size(2 * LANES)));
typedef uint16_t u16 __attribute__((vector_size(2 * LANES)));

template <class V, class T>
inline V load(const T* from) {
  V v;
  memcpy(&v, from, sizeof(V));
  return v;
}
template <class V, class T>
inline void store(T* to, V v) {
  memcpy(to, &v, sizeof(V));
}
inline f32 all(float x) { return x - f32{}; }

inline uint16_t to_bf16(float x) {  // round to nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline f32 from_bf16(const uint16_t* x) {
  return (f32)(__builtin_convertvector(load<u16>(x), u32) << 16);
}
inline f32 read(const float* x) { return load<f32>(x); }
inline f32 read(const uint16_t* x) { return from_bf16(x); }
inline void write(float* to, float x) { *to = x; }
inline void write(uint16_t* to, float x) { *to = to_bf16(x); }

inline f32 exponential(f32 x) {  // exp for x <= 0: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
  x = x < -87.0f ? all(-87.0f) : x;
  f32 t = x * 1.44269504f;
  i32 n = __builtin_convertvector(t - 0.5f, i32);  // towards zero: nearest, as t is not positive
  f32 whole = __builtin_convertvector(n, f32);
  f32 r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  f32 p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (f32)((n + 127) << 23);
}
inline f32 larger(f32 a, f32 b) { return a > b ? a : b; }
inline float largest(f32 v) {
  float most = v[0];
  for (int i = 1; i < LANES; i++) most = std::max(most, v[i]);
  return most;
}
inline float sum(f32 v) {
  float total = 0;
  for (int i = 0; i < LANES; i++) total += v[i];
  return total;
}

enum Precision { FP32 = 0, BF16 = 1, INT8 = 2 };

}  // namespace

extern "C" {

struct Linear {
  const void* weight;  // panels, see above
  const float* scale;  // of each output: int8 only
  const float* bias;   // or null
  int32_t inputs, panels;
};

struct Layer {
  Linear qkv, out, gate_up, down;  // gate_up: panels of both in turn
  const float *norm, *norm_mlp, *norm_q, *norm_k;  // the last two or null
};

struct Model {
  const Layer* layers;
  Linear head;
  const float *embedding, *norm, *cosine, *sine;  // rotary tables [position][half of head]
  int32_t depth, width, heads, kv_heads, head_size, feed_forward, precision, gelu;
  float epsilon, embedding_scale;
};

struct Cache {  // [layer][slot][kv head], then values [position][head size] and keys in the order
  void *keys, *values;      // in which they are read, [position / LANES][head size][LANES]
  int32_t slots, capacity;  // positions, a multiple of LANES
};

struct Tree {  // of each row: where the tree of its slot begins, its own place, and which of the
  const int32_t *starts, *places;  // `nodes` places from there on it sees
  const uint8_t* sees;
  int32_t nodes;
};

struct Choice {  // how the next code of one picture is drawn
  int32_t conditional, unconditional;  // rows of logits; the latter -1 where there is no guidance
  int32_t top_k;                       // 0: all
  float scale, temperature, top_p;
};

}  // extern "C"

namespace {

struct Team {
  int rank, size;
  template <class F>
  void share(int count, F work) const {  // contiguous parts: memory is read in one stream
    int from = (int)((int64_t)count * rank / size), to = (int)((int64_t)count * (rank + 1) / size);
    for (int i = from; i < to; i++) work(i);
  }
  void wait() const {
#ifdef _OPENMP
#pragma omp barrier
#endif
  }
};

// ---- products -------------------------------------------------------------------------------

// Inputs of a product: rows of pairs, as two floats or, for rounded ones, as two bf16.
struct Rows {
  const float* x;
  const uint32_t* pairs;
  int stride;
};

struct Fp32 {
  typedef float T;
  static inline void pair(const T* w, int half, f32& even, f32& odd) {
    even = load<f32>(w + half * LANES);
    odd = load<f32>(w + PANEL + half * LANES);  // fp32 panels are not interleaved: [input][PANEL]
  }
};
struct Bf16 {
  typedef uint16_t T;
#ifdef DOT_BF16
  static inline __m512bh dot_pair(const T* w, int half) {
    return (__m512bh)_mm512_loadu_si512(w + half * 2 * LANES);
  }
#endif
  static inline void pair(const T* w, int half, f32& even, f32& odd) {
    u32 both = load<u32>(w + half * 2 * LANES);
    even = (f32)(both << 16);
    odd = (f32)(both & 0xffff0000u);
  }
};
struct Int8 {
  typedef int8_t T;
#ifdef DOT_BF16
  static inline __m512bh dot_pair(const T* w, int half) {  // integers up to 127 are exact in bf16
    const __m128i* at = (const __m128i*)(w + half * 2 * LANES);
    __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at)));
    __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at + 1)));
    return _mm512_cvtne2ps_pbh(high, low);
  }
#endif
  static inline void pair(const T* w, int half, f32& even, f32& odd) {
    i16 both = load<i16>(w + half * 2 * LANES);
    i16 low = (i16)((u16)both << 8) >> 8;
    even = __builtin_convertvector(__builtin_convertvector(low, i32), f32);
    odd = __builtin_convertvector(__builtin_convertvector(both >> 8, i32), f32);
  }
};

template <class W, int M>
void panel_of(const typename W::T* w, int inputs, Rows rows, float* out) {
  f32 total[M][2] = {};
#ifdef DOT_BF16
  if constexpr (!std::is_same<W, Fp32>::value) {
    __m512 dots[M][2] = {};
    const uint32_t* x = rows.pairs;
    for (int k = 0; k < inputs / 2; k++, w += 2 * PANEL) {
      __m512bh left = W::dot_pair(w, 0), right = W::dot_pair(w, 1);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        __m512bh both = (__m512bh)_mm512_set1_epi32((int)x[m * (rows.stride / 2) + k]);
        dots[m][0] = _mm512_dpbf16_ps(dots[m][0], left, both);
        dots[m][1] = _mm512_dpbf16_ps(dots[m][1], right, both);
      }
    }
    memcpy(total, dots, sizeof(total));
  } else
#endif
  {
    const float* x = rows.x;
    for (int k = 0; k < inputs; k += 2, w += 2 * PANEL) {
      f32 even[2], odd[2];
      W::pair(w, 0, even[0], odd[0]);
      W::pair(w, 1, even[1], odd[1]);
#pragma GCC unroll 8
      for (int m = 0; m < M; m++) {
        float first = x[m * rows.stride + k], second = x[m * rows.stride + k + 1];
        total[m][0] += even[0] * first;
        total[m][1] += even[1] * first;
        total[m][0] += odd[0] * second;
        total[m][1] += odd[1] * second;
      }
    }
  }
  memcpy(out, total, sizeof(total));
}

template <class W>
void panel_rows(const typename W::T* w, int inputs, Rows rows, int count, float* out) {
  switch (count) {
    case 1: return panel_of<W, 1>(w, inputs, rows, out);
    case 2: return panel_of<W, 2>(w, inputs, rows, out);
    case 3: return panel_of<W, 3>(w, inputs, rows, out);
    case 4: return panel_of<W, 4>(w, inputs, rows, out);
    case 5: return panel_of<W, 5>(w, inputs, rows, out);
    case 6: return panel_of<W, 6>(w, inputs, rows, out);
    case 7: return panel_of<W, 7>(w, inputs, rows, out);
    default: return panel_of<W, 8>(w, inputs, rows, out);
  }
}

// out[row][PANEL] of one panel and up to TILE rows.
void product(const Linear& linear, int panel, int precision, Rows rows, int count, float* out) {
  int64_t at = (int64_t)panel * linear.inputs * PANEL;
  if (precision == FP32)
    panel_rows<Fp32>((const float*)linear.weight + at, linear.inputs, rows, count, out);
  else if (precision == BF16)
    panel_rows<Bf16>((const uint16_t*)linear.weight + at, linear.inputs, rows, count, out);
  else
    panel_rows<Int8>((const int8_t*)linear.weight + at, linear.inputs, rows, count, out);
  for (int m = 0; m < count * PANEL; m += PANEL)
    for (int j = 0; j < PANEL; j += LANES) {
      f32 y = load<f32>(out + m + j);
      if (linear.scale) y *= load<f32>(linear.scale + panel * PANEL + j);
      if (linear.bias) y += load<f32>(linear.bias + panel * PANEL + j);
      store(out + m + j, y);
    }
}

// ---- one pass -------------------------------------------------------------------------------

int padded(int size, int to) { return (size + to - 1) / to * to; }

// Inputs of the next product, kept as they are or as pairs of bf16.
struct Inputs {
  std::vector<float> x;
  std::vector<uint16_t> rounded;
  int stride = 0;
  bool round = false;

  void size(int rows, int width, bool rounding) {
    stride = padded(width, PANEL), round = rounding;
    x.resize((size_t)rows * stride);
    rounded.resize((size_t)rows * stride);
  }
  void put(int row, int at, int count) {  // x[row][at:at + count] was written
    if (!round) return;
    for (int i = at; i < at + count; i++)
      rounded[(size_t)row * stride + i] = to_bf16(x[(size_t)row * stride + i]);
  }
  Rows from(int row) const {
    size_t at = (size_t)row * stride;
    return {x.data() + at, (const uint32_t*)(rounded.data() + at), stride};
  }
};

struct Scratch {
  std::vector<float> state, qkv;
  Inputs normed, attended, hidden;
  int qkv_stride = 0;
};

void normalise(const float* x, const float* weight, int width, float epsilon, float* to) {
  f32 squares = {};
  int whole = width / LANES * LANES;
  for (int i = 0; i < whole; i += LANES) squares += load<f32>(x + i) * load<f32>(x + i);
  float total = sum(squares);
  for (int i = whole; i < width; i++) total += x[i] * x[i];
  float factor = 1.0f / sqrtf(total / width + epsilon);
  for (int i = 0; i < width; i++) to[i] = x[i] * factor * weight[i];
}

void rotate(float* x, const float* cosine, const float* sine, int half) {
  for (int i = 0; i < half; i++) {
    float a = x[i], b = x[i + half];
    x[i] = a * cosine[i] - b * sine[i];
    x[i + half] = b * cosine[i] + a * sine[i];
  }
}

// Which places one row of a tree does not see: none before `start`, and behind it those whose byte
// in `sees` is 0.
struct Hidden {
  const uint8_t* sees;
  int start;

  void put(f32& lanes, int t, int count, float value) const {
    if (!sees) return;
    for (int j = std::max(t, start); j < std::min(count, t + LANES); j++)
      if (!sees[j - start]) lanes[j - t] = value;
  }
};

template <class T>
struct Attention {
  const Model& model;
  const Cache& cache;
  int layer;

  T* keys(int slot, int head) const { return (T*)cache.keys + block(slot, head); }
  T* values(int slot, int head) const { return (T*)cache.values + block(slot, head); }
  int64_t block(int slot, int head) const {
    int64_t index = ((int64_t)layer * cache.slots + slot) * model.kv_heads + head;
    return index * cache.capacity * model.head_size;
  }

  // Rotate queries and key of one kv head of one row, and keep key and value at its place.
  void append(const Layer& weights, float* qkv, int head, int slot, int position, int place) const {
    int size = model.head_size, group = model.heads / model.kv_heads;
    const float *cosine = model.cosine + (int64_t)position * (size / 2),
                *sine = model.sine + (int64_t)position * (size / 2);
    for (int i = 0; i < group; i++) {
      float* query = qkv + (head * group + i) * size;
      if (weights.norm_q) normalise(query, weights.norm_q, size, model.epsilon, query);
      rotate(query, cosine, sine, size / 2);
    }
    float* key = qkv + (model.heads + head) * size;
    if (weights.norm_k) normalise(key, weights.norm_k, size, model.epsilon, key);
    rotate(key, cosine, sine, size / 2);
    const float* value = qkv + (model.heads + model.kv_heads + head) * size;
    T* k = keys(slot, head) + (int64_t)(place / LANES) * LANES * size + place % LANES;
    T* v = values(slot, head) + (int64_t)place * size;
    for (int i = 0; i < size; i++) {
      write(k + i * LANES, key[i]);
      write(v + i, value[i]);
    }
  }

  // to[head size]: what one query sees of the places up to its own, of which a tree hides some.
  void attend(const float* query, int head, int slot, int place, const Hidden& hidden,
              float* score, float* to) const {
    int size = model.head_size, count = place + 1;
    const T *k = keys(slot, head), *v = values(slot, head);
    float scale = 1.0f / sqrtf((float)size);
    f32 most = all(-INFINITY);
    for (int t = 0; t < count; t += LANES, k += LANES * size) {
      f32 dot[4] = {};  // head sizes are multiples of LANES
      for (int i = 0; i < size; i += 4)
        for (int j = 0; j < 4; j++) dot[j] += read(k + (i + j) * LANES) * query[i + j];
      f32 here = (dot[0] + dot[1] + (dot[2] + dot[3])) * scale;
      for (int j = count; j < t + LANES; j++) here[j - t] = -INFINITY;
      hidden.put(here, t, count, -INFINITY);
      store(score + t, here);
      most = larger(most, here);
    }
    float top = largest(most);
    f32 total = {};
    for (int t = 0; t < count; t += LANES) {
      f32 p = exponential(load<f32>(score + t) - top);
      for (int j = count; j < t + LANES; j++) p[j - t] = 0.0f;
      hidden.put(p, t, count, 0.0f);
      store(score + t, p);
      total += p;
    }
    float factor = 1.0f / sum(total);
    int i = 0;
    for (; i + 4 * LANES <= size; i += 4 * LANES) mix<4>(v + i, score, count, factor, to + i);
    for (; i < size; i += LANES) mix<1>(v + i, score, count, factor, to + i);
  }

  template <int N>  // N * LANES of the values, weighed
  void mix(const T* v, const float* score, int count, float factor, float* to) const {
    f32 mixed[N] = {};
    for (int t = 0; t < count; t++, v += model.head_size)
      for (int j = 0; j < N; j++) mixed[j] += read(v + j * LANES) * score[t];
    for (int j = 0; j < N; j++) store(to + j * LANES, mixed[j] * factor);
  }
};

void activate(const float* gate, const float* up, bool gelu, float* to) {
  for (int i = 0; i < PANEL; i += LANES) {
    f32 g = load<f32>(gate + i), x = g;
    if (gelu) x = 1.5957691216f * (g + 0.044715f * g * g * g);  // tanh form: g * sigmoid(x)
    f32 e = exponential(x < 0.0f ? x : -x);
    f32 sigmoid = (x < 0.0f ? e : all(1.0f)) / (1.0f + e);
    store(to + i, g * sigmoid * load<f32>(up + i));
  }
}

template <class T>
void layer_of(const Model& model, const Cache& cache, int index, Scratch& s, Team team, int rows,
              const int32_t* slots, const int32_t* positions, const Tree* tree) {
  const Layer& weights = model.layers[index];
  Attention<T> attention{model, cache, index};
  int width = model.width, size = model.head_size, group = model.heads / model.kv_heads;
  float tile[2][TILE * PANEL];
  std::vector<float> score(cache.capacity + LANES);

  auto norm = [&](const float* weight) {
    team.share(rows, [&](int m) {
      float* to = s.normed.x.data() + (size_t)m * s.normed.stride;
      normalise(s.state.data() + (size_t)m * width, weight, width, model.epsilon, to);
      s.normed.put(m, 0, width);
    });
    team.wait();
  };
  auto each = [&](const Linear& linear, const Inputs& inputs, auto use) {
    team.share(linear.panels, [&](int panel) {
      for (int m = 0; m < rows; m += TILE) {
        int count = std::min(TILE, rows - m);
        product(linear, panel, model.precision, inputs.from(m), count, tile[0]);
        for (int i = 0; i < count; i++) use(m + i, panel, tile[0] + i * PANEL);
      }
    });
    team.wait();
  };
  auto add = [&](int m, int panel, const float* y) {  // to the residual stream
    float* to = s.state.data() + (size_t)m * width + panel * PANEL;
    for (int j = 0; j < std::min(PANEL, width - panel * PANEL); j++) to[j] += y[j];
  };

  norm(weights.norm);
  each(weights.qkv, s.normed, [&](int m, int panel, const float* y) {
    memcpy(s.qkv.data() + (size_t)m * s.qkv_stride + panel * PANEL, y, PANEL * sizeof(float));
  });
  team.share(rows * model.kv_heads, [&](int i) {
    int m = i / model.kv_heads, head = i % model.kv_heads;
    float* qkv = s.qkv.data() + (size_t)m * s.qkv_stride;
    int place = tree ? tree->places[m] : positions[m];
    attention.append(weights, qkv, head, slots[m], positions[m], place);
  });
  team.wait();  // positions of one prompt see each other
  team.share(rows * model.heads, [&](int i) {
    int m = i / model.heads, head = i % model.heads;
    const float* query = s.qkv.data() + (size_t)m * s.qkv_stride + head * size;
    float* to = s.attended.x.data() + (size_t)m * s.attended.stride + head * size;
    Hidden hidden{tree ? tree->sees + (size_t)m * tree->nodes : nullptr,
                  tree ? tree->starts[m] : 0};
    int place = tree ? tree->places[m] : positions[m];
    attention.attend(query, head / group, slots[m], place, hidden, score.data(), to);
    s.attended.put(m, head * size, size);
  });
  team.wait();
  each(weights.out, s.attended, add);
  norm(weights.norm_mlp);
  const Linear& both = weights.gate_up;
  team.share(both.panels / 2, [&](int panel) {
    for (int m = 0; m < rows; m += TILE) {
      int count = std::min(TILE, rows - m);
      product(both, 2 * panel, model.precision, s.normed.from(m), count, tile[0]);
      product(both, 2 * panel + 1, model.precision, s.normed.from(m), count, tile[1]);
      for (int i = 0; i < count; i++) {
        float* to = s.hidden.x.data() + (size_t)(m + i) * s.hidden.stride + panel * PANEL;
        activate(tile[0] + i * PANEL, tile[1] + i * PANEL, model.gelu, to);
        s.hidden.put(m + i, panel * PANEL, PANEL);
      }
    }
  });
  team.wait();
  each(weights.down, s.hidden, add);
}

void head_of(const Model& model, Scratch& s, Team team, const int32_t* wanted, int count,
             float* logits, int codes, float* states) {
  float tile[TILE * PANEL];
  team.share(count, [&](int i) {
    float* to = s.normed.x.data() + (size_t)i * s.normed.stride;
    normalise(s.state.data() + (size_t)wanted[i] * model.width, model.norm, model.width,
              model.epsilon, to);
    s.normed.put(i, 0, model.width);
    if (states) memcpy(states + (size_t)i * model.width, to, model.width * sizeof(float));
  });
  team.wait();
  team.share(model.head.panels, [&](int panel) {
    for (int m = 0; m < count; m += TILE) {
      int here = std::min(TILE, count - m), kept = std::min(PANEL, codes - panel * PANEL);
      product(model.head, panel, model.precision, s.normed.from(m), here, tile);
      for (int i = 0; i < here; i++)
        memcpy(logits + (size_t)(m + i) * codes + panel * PANEL, tile + i * PANEL,
               kept * sizeof(float));
    }
  });
}

// Of codes with these weights keep the `k` largest (0: all), and of those the fewest that have the
// share `p` of what is kept; the weights of the others become 0.
void filter(std::vector<float>& weight, int codes, int k, float p, std::vector<int>& heap) {
  if (k > 0 && k < codes) {
    std::vector<float> ordered(weight.begin(), weight.begin() + codes);
    std::nth_element(ordered.begin(), ordered.begin() + k - 1, ordered.end(), std::greater<>());
    for (int i = 0; i < codes; i++)
      if (weight[i] < ordered[k - 1]) weight[i] = 0.0f;
  }
  if (p >= 1.0f) return;
  auto less = [&](int a, int b) { return weight[a] < weight[b]; };
  heap.clear();
  float total = 0.0f;
  for (int i = 0; i < codes; i++) {
    if (weight[i] > 0.0f) heap.push_back(i);
    total += weight[i];
  }
  std::make_heap(heap.begin(), heap.end(), less);
  float before = 0.0f;
  auto end = heap.end();
  for (; end != heap.begin() && before < p * total; end--) {
    std::pop_heap(heap.begin(), end, less);
    before += weight[*(end - 1)];
  }
  for (auto left = heap.begin(); left != end; left++) weight[*left] = 0.0f;
}

template <class F>
void together(int threads, F work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(Team{omp_get_thread_num(), omp_get_num_threads()});
#else
  work(Team{0, 1});
#endif
}

}  // namespace

extern "C" {

// Read `rows` tokens, each at its position of its slot of the cache, those of a slot in order; with
// a tree (or null) at a place of its own. logits[wanted][codes] of the rows named in `wanted`, and
// states[wanted][width] (or null), which the head reads; there may be none.
void arra_forward(const Model* model, const Cache* cache, int rows, const int64_t* tokens,
                  const int32_t* slots, const int32_t* positions, const int32_t* wanted, int count,
                  const Tree* tree, float* logits, int codes, float* states, int threads) {
  static thread_local Scratch s;
  bool rounding = model->precision != FP32;
  s.state.resize((size_t)rows * model->width);
  s.qkv_stride = padded((model->heads + 2 * model->kv_heads) * model->head_size, PANEL);
  s.qkv.resize((size_t)rows * s.qkv_stride);
  s.normed.size(rows, model->width, rounding);
  s.attended.size(rows, model->heads * model->head_size, rounding);
  s.hidden.size(rows, model->feed_forward, rounding);
  Scratch* shared = &s;
  together(threads, [&](Team team) {
    int width = model->width;
    team.share(rows, [&](int m) {
      const float* from = model->embedding + tokens[m] * width;
      float* to = shared->state.data() + (size_t)m * width;
      for (int i = 0; i < width; i++) to[i] = from[i] * model->embedding_scale;
    });
    team.wait();
    for (int i = 0; i < model->depth; i++) {
      if (rounding)
        layer_of<uint16_t>(*model, *cache, i, *shared, team, rows, slots, positions, tree);
      else
        layer_of<float>(*model, *cache, i, *shared, team, rows, slots, positions, tree);
    }
    if (count) head_of(*model, *shared, team, wanted, count, logits, codes, states);
  });
}

// One draw for each of `rows` pictures as its choice says: guidance, then argmax of
// softmax(logits / temperature) / race among the codes that top-k and top-p keep. Temperature 0
// takes the best.
void arra_choose(const float* logits, int rows, int codes, const Choice* choices, const float* race,
                 int64_t* drawn, int threads) {
  together(std::min(threads, rows), [&](Team team) {
    std::vector<float> law(padded(codes, LANES), -INFINITY);
    std::vector<int> heap;
    team.share(rows, [&](int m) {
      const Choice& choice = choices[m];
      const float* c = logits + (size_t)choice.conditional * codes;
      const float* u = logits + (size_t)std::max(choice.unconditional, 0) * codes;
      bool both = choice.unconditional >= 0 && choice.scale != 1.0f;
      for (int i = 0; i < codes; i++) law[i] = both ? u[i] + choice.scale * (c[i] - u[i]) : c[i];
      f32 most = all(-INFINITY);
      for (int i = 0; i < codes; i += LANES) most = larger(most, load<f32>(law.data() + i));
      if (choice.temperature != 0.0f) {
        const float* noise = race + (size_t)m * codes;
        float top = largest(most);
        most = all(-INFINITY);
        for (int i = 0; i < codes; i += LANES)
          store(law.data() + i, exponential((load<f32>(law.data() + i) - top) / choice.temperature));
        filter(law, codes, choice.top_k, choice.top_p, heap);
        for (int i = 0; i < codes; i += LANES) {
          f32 weight = load<f32>(law.data() + i), e = all(1.0f);
          memcpy(&e, noise + i, std::min(LANES, codes - i) * sizeof(float));
          f32 ratio = weight / larger(e, all(1.17549435e-38f));
          for (int j = codes; j < i + LANES; j++) ratio[j - i] = -INFINITY;
          store(law.data() + i, ratio);
          most = larger(most, ratio);
        }
      }
      drawn[m] = std::find(law.begin(), law.begin() + codes - 1, largest(most)) - law.begin();
    });
  });
}

}  // extern "C"
