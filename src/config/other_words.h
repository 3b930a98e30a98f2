#pragma once

#include <string>
#include <string_view>

namespace deeptitan {

/// What to say of a key or an option that other programs have and this one has not, or has under another name:
/// "; the learning rate is optimizer.lr". Empty for a name that is nowhere usual. `name` may hold sections, dashes and
/// capitals ("--Learning-Rate", "training.num_train_epochs").
std::string other_words_for(std::string_view name);

/// The option that means what `name` does in other programs that run models: "--max-new-tokens" for "-n" and
/// "--n-predict". Empty where there is none.
std::string_view usual_option(std::string_view name);

/// The same for the name of a command.
std::string other_words_for_command(std::string_view name);

}  // namespace deeptitan
