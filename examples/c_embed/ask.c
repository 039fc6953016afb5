/* Asks a bundle about an image in plain C, and says the answer while it is made.
 *
 * usage: ask BUNDLE PROMPT [IMAGE]
 */
#include <moe_export/moe_export.h>
#include <stdio.h>

static int say(void* user, size_t request, int64_t token, const char* text, size_t bytes) {
  (void)user, (void)request, (void)token;
  fwrite(text, 1, bytes, stdout);
  return fflush(stdout);
}

/* Prints an error, frees it, and gives the exit status that it stands for; 0 where there is none. */
static int status_of(moe_export_error* error) {
  int kind;
  if (error == NULL) return 0;
  kind = (int)moe_export_error_kind(error);
  fprintf(stderr, "error: %s\n", moe_export_error_message(error));
  if (*moe_export_error_where(error)) fprintf(stderr, "at: %s\n", moe_export_error_where(error));
  if (*moe_export_error_hint(error)) fprintf(stderr, "hint: %s\n", moe_export_error_hint(error));
  moe_export_error_free(error);
  return kind;
}

int main(int argc, char** argv) {
  moe_export_bundle* bundle = NULL;
  moe_export_generator* generator = NULL;
  moe_export_answer* answer = NULL;
  moe_export_generate_options options = {.size = sizeof options, .listener = say};
  moe_export_image image = {.size = sizeof image};
  moe_export_request request = {.size = sizeof request, .options = &options};
  int status;

  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: ask BUNDLE PROMPT [IMAGE]\n");
    return 2;
  }
  request.prompt = argv[2];
  if (argc == 4) {
    image.path = argv[3];
    request.images = &image;
    request.image_count = 1;
  }
  status = status_of(moe_export_bundle_open(argv[1], NULL, &bundle));
  if (!status) status = status_of(moe_export_generator_create(bundle, NULL, &generator));
  if (!status) status = status_of(moe_export_generate(generator, &request, &answer));
  if (!status) putchar('\n');

  moe_export_answer_free(answer);
  moe_export_generator_free(generator);
  moe_export_bundle_free(bundle);
  return status;
}
