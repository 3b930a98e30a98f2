#pragma once

#include <string_view>

#include "tokenizer/tokenizer_json.h"

namespace deeptitan {

/// Whether a vocabulary file is a tiktoken.model and not a tokenizer.json.
bool is_tiktoken_model(std::string_view text);

/// Reads a tiktoken.model: a line a token, its bytes in base64 and its rank, which is its id. Two neighbouring tokens
/// merge where together they are a token, that of the lowest rank first, leftmost first; a piece that is a token is
/// that token. The text is cut as the published tokenizers of Moonlight and Kimi cut it (pat_str in
/// tokenization_moonshot.py and tokenization_kimi.py); `config` names the special tokens behind the ranks, and those of
/// the next 256 ids that it does not name are <|reserved_token_ID|>, as there. Throws Error that names the line that is
/// no token, or the class of another tokenizer in `config`.
TokenizerDescription parse_tiktoken_model(std::string_view text, const TokenizerConfigDescription& config);

}  // namespace deeptitan
