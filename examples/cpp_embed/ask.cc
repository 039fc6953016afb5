// Asks a bundle about an image, and says the answer while it is made.
//
// usage: ask BUNDLE PROMPT [IMAGE ...] [--temperature T] [--seed N]
#include <moe_export/moe_export.hpp>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <iostream>

namespace {

// Ctrl-C ends the answer, not the program.
volatile std::sig_atomic_t interrupted = 0;

struct Asked {
  std::string bundle, prompt;
  std::vector<moe::Image> images;
  moe::Options options;
};

bool read(int argc, char** argv, Asked* asked) {
  if (argc < 3) return false;
  asked->bundle = argv[1];
  asked->prompt = argv[2];
  for (int i = 3; i < argc; ++i) {
    if (std::strcmp(argv[i], "--temperature") == 0 && i + 1 < argc) {
      asked->options.temperature = std::atof(argv[++i]);
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      asked->options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      asked->images.push_back(moe::Image::file(argv[i]));
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  Asked asked;
  if (!read(argc, argv, &asked)) {
    std::cerr << "usage: ask BUNDLE PROMPT [IMAGE ...] [--temperature T] [--seed N]\n";
    return 2;
  }
  std::signal(SIGINT, [](int) { interrupted = 1; });
  try {
    moe::Generator generator(moe::Bundle::open(asked.bundle));
    const moe::Answer answer = generator.generate(
        asked.prompt, asked.images, asked.options, [](std::string_view piece) {
          std::cout << piece << std::flush;
          return interrupted == 0;
        });
    std::cout << std::endl;
    return answer.finish == moe::Finish::cancelled ? 130 : 0;
  } catch (const moe::Error& error) {
    std::cerr << "error: " << error.what() << "\n";
    return error.exit_code();
  }
}
