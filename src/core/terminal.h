#pragma once

namespace deeptitan {

/// Columns of the terminal that `descriptor` is; where it is none, or does not say, those that the environment's
/// COLUMNS names, else 80.
int terminal_width(int descriptor);

}  // namespace deeptitan
