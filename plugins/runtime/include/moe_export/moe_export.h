/* The C interface of libmoe_export: bundles of moe-export, opened and run without Python.
 *
 * Every function that can fail returns an error, or NULL where it did what it was asked; the error is
 * the caller's, who frees it.  No C++ exception leaves the library.  Objects are freed by the
 * function of their own name, which takes NULL too.  What a function returns as `const` belongs to the
 * object that it was asked of and lives as long.  Texts are UTF-8.
 *
 * Structs that the caller fills begin with their size, so that later versions can read what earlier
 * callers wrote: `moe_export_generate_options options = {.size = sizeof options};` leaves every other field
 * at 0, which always stands for the default.
 */
#ifndef MOE_EXPORT_MOE_EXPORT_H_
#define MOE_EXPORT_MOE_EXPORT_H_

#include <stddef.h>
#include <stdint.h>

/* A library of another number is another library.  What is only added does not change it. */
#define MOE_EXPORT_ABI_VERSION 1

#if defined(__GNUC__)
#define MOE_EXPORT_CALL __attribute__((visibility("default")))
#define MOE_EXPORT_CHECKED __attribute__((warn_unused_result))
#else
#define MOE_EXPORT_CALL
#define MOE_EXPORT_CHECKED
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* MOE_EXPORT_ABI_VERSION of the library that is loaded. */
MOE_EXPORT_CALL uint32_t moe_export_abi_version(void);
/* Its release, such as "0.1.0". */
MOE_EXPORT_CALL const char* moe_export_version(void);

/* ---- errors ---- */

/* Numbered as the exit codes of the program moe-export, one for each of its exceptions. */
typedef enum moe_export_kind {
  MOE_EXPORT_INTERNAL = 1,    /* a bug in moe_export */
  MOE_EXPORT_USAGE = 2,       /* the request is wrong */
  MOE_EXPORT_UNSUPPORTED = 3, /* the model or an operator cannot be served */
  MOE_EXPORT_PARITY = 4,      /* never returned by this library */
  MOE_EXPORT_ENVIRONMENT = 5, /* a library or a version is missing here */
  MOE_EXPORT_MEMORY = 6,      /* does not fit the memory it may use */
  MOE_EXPORT_UNSAFE = 7       /* corrupt input, or input that asks for a trust it was not given */
} moe_export_kind;

typedef struct moe_export_error moe_export_error;

MOE_EXPORT_CALL moe_export_kind moe_export_error_kind(const moe_export_error* error);
/* What is wrong; where, in the user's words; what to do next.  The last two may be "". */
MOE_EXPORT_CALL const char* moe_export_error_message(const moe_export_error* error);
MOE_EXPORT_CALL const char* moe_export_error_where(const moe_export_error* error);
MOE_EXPORT_CALL const char* moe_export_error_hint(const moe_export_error* error);
MOE_EXPORT_CALL void moe_export_error_free(moe_export_error* error);

/* ---- bundles ---- */

typedef struct moe_export_bundle moe_export_bundle;

typedef struct moe_export_open_options {
  size_t size;
  int skip_digests; /* not 0: leave out the SHA-256 of the files, one pass over all bytes */
} moe_export_open_options;

/* Opens the bundle at `path` after every file was found to be what its manifest says.  `options` may
 * be NULL.  Sessions and generators keep what they need: the bundle may be freed before them. */
MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_bundle_open(
    const char* path, const moe_export_open_options* options, moe_export_bundle** bundle);
MOE_EXPORT_CALL void moe_export_bundle_free(moe_export_bundle* bundle);
MOE_EXPORT_CALL const char* moe_export_bundle_path(const moe_export_bundle* bundle);
/* "ort", "standard", "trt" or "trt-rtx". */
MOE_EXPORT_CALL const char* moe_export_bundle_target(const moe_export_bundle* bundle);
/* SHA-256 of the manifest: the bundle's identity. */
MOE_EXPORT_CALL const char* moe_export_bundle_digest(const moe_export_bundle* bundle);
MOE_EXPORT_CALL size_t moe_export_bundle_component_count(const moe_export_bundle* bundle);
/* In alphabetical order; NULL beyond the last. */
MOE_EXPORT_CALL const char* moe_export_bundle_component(const moe_export_bundle* bundle,
                                                        size_t index);

/* ---- tensors ---- */

/* Numbered as ONNX numbers its element types. */
typedef enum moe_export_dtype {
  MOE_EXPORT_FLOAT32 = 1,
  MOE_EXPORT_UINT8 = 2,
  MOE_EXPORT_INT8 = 3,
  MOE_EXPORT_UINT16 = 4,
  MOE_EXPORT_INT16 = 5,
  MOE_EXPORT_INT32 = 6,
  MOE_EXPORT_INT64 = 7,
  MOE_EXPORT_BOOL = 9,
  MOE_EXPORT_FLOAT16 = 10,
  MOE_EXPORT_FLOAT64 = 11,
  MOE_EXPORT_UINT32 = 12,
  MOE_EXPORT_UINT64 = 13,
  MOE_EXPORT_BFLOAT16 = 16
} moe_export_dtype;

/* A dense tensor in C order in the caller's memory.  It is read where it lies. */
typedef struct moe_export_array {
  const char* name;
  moe_export_dtype dtype;
  size_t rank;
  const int64_t* shape;
  const void* data;
  size_t bytes;
} moe_export_array;

/* A tensor that a run made. */
typedef struct moe_export_tensor moe_export_tensor;

MOE_EXPORT_CALL moe_export_dtype moe_export_tensor_dtype(const moe_export_tensor* tensor);
MOE_EXPORT_CALL size_t moe_export_tensor_rank(const moe_export_tensor* tensor);
MOE_EXPORT_CALL const int64_t* moe_export_tensor_shape(const moe_export_tensor* tensor);
MOE_EXPORT_CALL const void* moe_export_tensor_data(const moe_export_tensor* tensor);
MOE_EXPORT_CALL size_t moe_export_tensor_bytes(const moe_export_tensor* tensor);
MOE_EXPORT_CALL void moe_export_tensor_free(moe_export_tensor* tensor);

/* An input or an output of a graph. */
typedef struct moe_export_port {
  const char* name;
  const char* dtype; /* as NumPy names it: "float32", "bool" */
  size_t rank;
  const int64_t* sizes;          /* -1 where a size may vary */
  const char* const* size_names; /* "" where it has no name; one name is one size in a run */
} moe_export_port;

/* ---- sessions: one graph, arrays in and out ----
 *
 * The graph "main" of a bundle for trt or trt-rtx is its engine, on the GPU that is here; threads and
 * libraries of the options are then nobody's. */

typedef struct moe_export_session moe_export_session;

typedef struct moe_export_session_options {
  size_t size;
  const char* component; /* NULL: "model", what a model of one graph has */
  const char* graph;     /* NULL: "main"; or "probe", "experts", "replay" */
  int threads;           /* 0: one for each core */
  /* libonnxruntime.so, or a folder that holds it.  NULL: what MOE_EXPORT_ONNXRUNTIME names, else the
   * process's own, else the system's.  A process has one. */
  const char* onnxruntime;
  /* libmoe_export_ort.so.  NULL: what MOE_EXPORT_ORT_LIBRARY names, else the one installed. */
  const char* kernels;
} moe_export_session_options;

MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_session_create(
    const moe_export_bundle* bundle, const moe_export_session_options* options,
    moe_export_session** session);
MOE_EXPORT_CALL void moe_export_session_free(moe_export_session* session);
MOE_EXPORT_CALL size_t moe_export_session_input_count(const moe_export_session* session);
MOE_EXPORT_CALL size_t moe_export_session_output_count(const moe_export_session* session);
/* NULL beyond the last. */
MOE_EXPORT_CALL const moe_export_port* moe_export_session_input(const moe_export_session* session,
                                                                size_t index);
MOE_EXPORT_CALL const moe_export_port* moe_export_session_output(const moe_export_session* session,
                                                                 size_t index);

/* Runs the graph.  `tensors` has room for as many as are wanted, in the order of `outputs`; where
 * `output_count` is 0 these are all of them, in the graph's order.  Several threads may run one session
 * at once.  On an error no tensor is made. */
MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_session_run(
    const moe_export_session* session, const moe_export_array* inputs, size_t input_count,
    const char* const* outputs, size_t output_count, moe_export_tensor** tensors);

/* ---- generators: a prompt and images in, an answer out ---- */

typedef struct moe_export_generator moe_export_generator;

typedef struct moe_export_generator_options {
  size_t size;
  int threads;                /* as in moe_export_session_options, like the next two */
  const char* onnxruntime;
  const char* kernels;
  int64_t max_cache_tokens;   /* the most that a prompt and its answer may have; 0: no limit */
  int keep_no_prefix;         /* not 0: begin every prompt anew */
  /* Features of images that are kept for the next prompts; 0: 256 MiB of them, below 0: none. */
  int64_t max_image_bytes;
} moe_export_generator_options;

MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_generator_create(
    const moe_export_bundle* bundle, const moe_export_generator_options* options,
    moe_export_generator** generator);
MOE_EXPORT_CALL void moe_export_generator_free(moe_export_generator* generator);

/* What ends a request early, from any thread, in the middle of a run too.  It may serve many requests, one after the other or at
 * once; what is cancelled stays so. */
typedef struct moe_export_cancellation moe_export_cancellation;

MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_cancellation_create(
    moe_export_cancellation** cancellation);
MOE_EXPORT_CALL void moe_export_cancellation_cancel(moe_export_cancellation* cancellation);
/* Not before the requests that it was given to have ended. */
MOE_EXPORT_CALL void moe_export_cancellation_free(moe_export_cancellation* cancellation);

/* Hears an answer while it is made: `text` are whole letters, possibly none; `token` is the id that
 * they came with, -1 for what was held back at the end.  `request` is its place in a batch.  It is
 * called in the thread that generates.  Anything but 0 cancels the request. */
typedef int (*moe_export_listener)(void* user, size_t request, int64_t token, const char* text,
                                   size_t bytes);

typedef struct moe_export_generate_options {
  size_t size;
  int64_t max_new_tokens;    /* 0: what the bundle says */
  double temperature;        /* 0: the likeliest token, the lower id where two are equal */
  int64_t top_k;             /* 0: all */
  double top_p;              /* 0 or 1: all */
  double repetition_penalty; /* 0 or 1: none */
  uint64_t seed;
  const char* const* stop; /* texts in front of the first of which the answer ends */
  size_t stop_count;
  moe_export_listener listener; /* or NULL */
  void* user;                   /* what the listener is handed */
  moe_export_cancellation* cancellation; /* or NULL */
} moe_export_generate_options;

/* An image: a file, the bytes of one, or pixels.  One of the three is given. */
typedef struct moe_export_image {
  size_t size;
  const char* path;
  const void* bytes;
  size_t byte_count;
  const uint8_t* pixels; /* red, green and blue of each, row by row */
  int width, height;
} moe_export_image;

/* A prompt: words and the images in front of them, or, where `ids` is not NULL, token ids. */
typedef struct moe_export_request {
  size_t size;
  const char* prompt;
  const moe_export_image* images; /* all of one `size` */
  size_t image_count;
  const int64_t* ids;
  size_t id_count;
  const moe_export_generate_options* options; /* or NULL */
} moe_export_request;

typedef enum moe_export_finish {
  MOE_EXPORT_FINISH_STOP = 1,        /* the model ended it */
  MOE_EXPORT_FINISH_STOP_STRING = 2, /* a stop text came */
  MOE_EXPORT_FINISH_LENGTH = 3,      /* as long as it may be */
  MOE_EXPORT_FINISH_CANCELLED = 4
} moe_export_finish;

typedef struct moe_export_answer moe_export_answer;

/* Answers one prompt.  Several threads may ask one generator at once. */
MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_generate(
    moe_export_generator* generator, const moe_export_request* request, moe_export_answer** answer);
/* Answers several together, each as it would be answered alone; see docs/embedding.md.  `answers` has
 * room for `count`; on an error none is made.  All elements of an array are of one `size`. */
MOE_EXPORT_CALL MOE_EXPORT_CHECKED moe_export_error* moe_export_generate_batch(
    moe_export_generator* generator, const moe_export_request* requests, size_t count,
    moe_export_answer** answers);

/* The ids that were drawn, those of a stop text too, without the one that ends an answer. */
MOE_EXPORT_CALL const int64_t* moe_export_answer_ids(const moe_export_answer* answer);
MOE_EXPORT_CALL size_t moe_export_answer_id_count(const moe_export_answer* answer);
/* In front of the stop text, if one ended it.  A model may say a zero byte: the second has the size. */
MOE_EXPORT_CALL const char* moe_export_answer_text(const moe_export_answer* answer);
MOE_EXPORT_CALL size_t moe_export_answer_text_bytes(const moe_export_answer* answer);
MOE_EXPORT_CALL moe_export_finish moe_export_answer_finish(const moe_export_answer* answer);
/* Tokens of the prompt, and how many of them were found in a cache. */
MOE_EXPORT_CALL size_t moe_export_answer_prompt_tokens(const moe_export_answer* answer);
MOE_EXPORT_CALL size_t moe_export_answer_reused_tokens(const moe_export_answer* answer);
MOE_EXPORT_CALL void moe_export_answer_free(moe_export_answer* answer);

#ifdef __cplusplus
}
#endif

#endif /* MOE_EXPORT_MOE_EXPORT_H_ */
