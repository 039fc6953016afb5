// Answers of a bundle of one graph: the whole sequence runs again for each token; the twin of
// moe_export/runtime/one_graph.py.
#ifndef MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_ONE_GRAPH_H_
#define MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_ONE_GRAPH_H_

#include <optional>

#include "ask/single.h"
#include "generate/speaker.h"

namespace moe::runtime {

// A bundle with generation_config.json and tokenizer.json, and preprocessor_config.json where the model
// takes an image: then each request has one.
class OneGraph : public Speaker {
 public:
  OneGraph(std::shared_ptr<const Bundle> bundle, const GeneratorOptions& options);

  Ready ready(const Asked& asked) const override;
  std::unique_ptr<Decoding> begin(std::vector<Ready> prompts) override;
  const Tokenizer& tokenizer() const override { return tokenizer_; }

 private:
  friend class Rerun;
  void check_signature();

  std::shared_ptr<const Bundle> bundle_;
  GenerationConfig config_;
  std::optional<ImagePreprocessor> preprocessor_;
  Tokenizer tokenizer_;
  Session session_;
  std::string logits_;
  DType token_dtype_ = DType::int64;
};

}  // namespace moe::runtime

#endif  // MOE_EXPORT_PLUGINS_RUNTIME_GENERATE_ONE_GRAPH_H_
