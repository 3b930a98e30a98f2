#include "line_editor.h"

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <fstream>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/file.h"
#include "core/json_reader.h"
#include "core/log.h"
#include "core/utf8.h"

namespace deeptitan {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLinesKept = 1000;
constexpr char kInvisible = '\1';  // stands around what takes no room on the screen
// Terminals that know bracketed paste put these around what is pasted (xterm, "Bracketed Paste Mode").
constexpr std::string_view kPasteOn = "\033[?2004h";
constexpr std::string_view kPasteOff = "\033[?2004l";
constexpr std::wstring_view kPasteEnd = L"\033[201~";

void show(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// libedit tells characters from bytes by the locale.
void use_utf8() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

std::wstring to_wide(std::string_view text) {
  std::wstring wide;
  while (!text.empty()) {
    const Utf8Unit unit = read_utf8_unit(text);
    wide += static_cast<wchar_t>(unit.code_point);
    text.remove_prefix(unit.length);
  }
  return wide;
}

std::string to_utf8(std::wstring_view wide) {
  std::string text;
  for (const wchar_t c : wide) append_utf8(text, static_cast<char32_t>(c));
  return text;
}

}  // namespace

fs::path chat_history_file() {
  if (const char* file = std::getenv("DEEPTITAN_HISTORY")) return file;
  const char* state = std::getenv("XDG_STATE_HOME");
  if (state != nullptr && *state != '\0') return fs::path(state) / "deeptitan" / "chat_history";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return {};
  return fs::path(home) / ".local" / "state" / "deeptitan" / "chat_history";
}

std::vector<std::string> LineHistory::load() const {
  std::vector<std::string> lines;
  std::ifstream file(file_);
  for (std::string text; std::getline(file, text);) {
    const nlohmann::json json = try_read_json(text).value_or(nlohmann::json());
    if (json.is_string()) lines.push_back(json.get<std::string>());
  }
  if (lines.size() > kLinesKept) lines.erase(lines.begin(), lines.end() - kLinesKept);
  return lines;
}

void LineHistory::append(const std::string& line) const {
  if (file_.empty()) return;
  std::error_code error;
  fs::create_directories(file_.parent_path(), error);
  // Of its owner alone; one write, so that sessions at once do not mix their lines.
  const int descriptor = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (descriptor < 0) fail_file("write", file_, errno);
  const std::string text = nlohmann::json(line).dump() + "\n";
  const ssize_t written = ::write(descriptor, text.data(), text.size());
  const int reason = errno;
  ::close(descriptor);
  if (written != static_cast<ssize_t>(text.size())) fail_file("write", file_, reason);
}

struct LineEditor::State {
  explicit State(LineHistory lines) : history_lines(std::move(lines)) {}

  // What was typed and not yet given to libedit.
  InputBytes input;
  LineHistory history_lines;
  bool history_works = true;
  bool interrupted = false;
  std::string prompt;
  EditLine* editor = nullptr;
  HistoryW* history = nullptr;

  static State& of(EditLine* editor) {
    void* state = nullptr;
    el_wget(editor, EL_CLIENTDATA, &state);
    return *static_cast<State*>(state);
  }

  // The next character that is typed: 1, 0 at the end, -1 where Ctrl-C came.
  int next(wchar_t* c) {
    std::string bytes;
    while (true) {
      char byte = 0;
      switch (input.next(byte)) {
        case LineResult::kEnd:
          return 0;
        case LineResult::kInterrupted:
          interrupted = true;
          errno = EINTR;
          return -1;
        case LineResult::kLine:
          break;
      }
      bytes += byte;
      const Utf8Unit unit = read_utf8_unit(bytes);
      if (unit.kind == Utf8Unit::Kind::kIncomplete) continue;
      *c = static_cast<wchar_t>(unit.code_point);
      return 1;
    }
  }

  static int read_character(EditLine* editor, wchar_t* c) { return of(editor).next(c); }

  static char* show_prompt(EditLine* editor) { return of(editor).prompt.data(); }

  static unsigned char insert_paste(EditLine* editor, wint_t /*key*/) {
    std::wstring text;
    wchar_t c = 0;
    while (!text.ends_with(kPasteEnd)) {
      if (of(editor).next(&c) != 1) return CC_ERROR;
      text += c == L'\r' ? L'\n' : c;  // a terminal sends line feeds as Enter
    }
    text.resize(text.size() - kPasteEnd.size());
    // One by one, as if they were typed: libedit grows its buffers rightly for that.
    for (const wchar_t inserted : text) {
      const wchar_t one[] = {inserted, L'\0'};
      if (inserted != L'\0' && el_winsertstr(editor, one) != 0) return CC_ERROR;
    }
    return CC_REFRESH;
  }

  static unsigned char insert_line_feed(EditLine* editor, wint_t /*key*/) {
    return el_winsertstr(editor, L"\n") == 0 ? CC_REFRESH : CC_ERROR;
  }
};

LineEditor::LineEditor(LineHistory history) : state_(std::make_unique<State>(std::move(history))) {
  use_utf8();
  state_->editor = el_init("deeptitan", stdin, stdout, stderr);
  state_->history = history_winit();
  DT_CHECK(state_->editor != nullptr && state_->history != nullptr, "libedit cannot begin on this terminal");
  EditLine* editor = state_->editor;
  el_wset(editor, EL_CLIENTDATA, state_.get());
  el_wset(editor, EL_GETCFN, &State::read_character);
  el_wset(editor, EL_EDITOR, L"emacs");
  el_set(editor, EL_PROMPT_ESC, &State::show_prompt, kInvisible);
  HistEventW event;
  history_w(state_->history, &event, H_SETSIZE, static_cast<int>(kLinesKept));
  history_w(state_->history, &event, H_SETUNIQUE, 1);
  el_wset(editor, EL_HIST, history_w, state_->history);
  for (const std::string& line : state_->history_lines.load()) {
    history_w(state_->history, &event, H_ENTER, to_wide(line).c_str());
  }
  el_wset(editor, EL_ADDFN, L"dt-paste", L"Insert what is pasted", &State::insert_paste);
  el_wset(editor, EL_ADDFN, L"dt-line-feed", L"Insert a line feed", &State::insert_line_feed);
  // Ctrl-C throws away nothing that is on its way to the screen: it is only an answer or a line that it stops.
  for (const wchar_t* mode : {L"-x", L"-d"}) {
    el_wset(editor, EL_SETTY, mode, L"+noflsh", static_cast<wchar_t*>(nullptr));
  }
  const auto bind = [&](const wchar_t* keys, const wchar_t* function) {
    el_wset(editor, EL_BIND, keys, function, static_cast<wchar_t*>(nullptr));
  };
  bind(L"\\e[200~", L"dt-paste");
  bind(L"\\e^M", L"dt-line-feed");
  bind(L"\\e^J", L"dt-line-feed");
  bind(L"^R", L"em-inc-search-prev");
  bind(L"^I", L"ed-insert");
  bind(L"\\e[3~", L"ed-delete-next-char");
  bind(L"\\e[H", L"ed-move-to-beg");
  bind(L"\\e[F", L"ed-move-to-end");
  bind(L"\\e[1~", L"ed-move-to-beg");
  bind(L"\\e[4~", L"ed-move-to-end");
  bind(L"\\e[1;5D", L"ed-prev-word");
  bind(L"\\e[1;5C", L"em-next-word");
}

LineEditor::~LineEditor() {
  el_end(state_->editor);
  history_wend(state_->history);
}

LineResult LineEditor::read(const LinePrompt& prompt, std::string& line) {
  const auto unseen = [](const std::string& sequence) { return kInvisible + sequence + kInvisible; };
  state_->prompt = prompt.colour.empty() ? prompt.label + prompt.end
                                         : unseen(prompt.colour) + prompt.label + unseen("\033[0m") + prompt.end;
  state_->interrupted = false;
  show(kPasteOn);
  // Before the prompt shows: what is typed or pasted at it is libedit's, not the line discipline's, which cuts lines at
  // 4,095 bytes.
  el_wset(state_->editor, EL_PREP_TERM, 1);
  int count = 0;
  const wchar_t* wide = el_wgets(state_->editor, &count);
  show(kPasteOff);
  if (wide == nullptr || count <= 0) return state_->interrupted ? LineResult::kInterrupted : LineResult::kEnd;
  std::wstring_view text(wide, static_cast<size_t>(count));
  if (text.ends_with(L'\n')) text.remove_suffix(1);
  line = to_utf8(text);
  if (line.find_first_not_of(" \t\n") == std::string::npos) return LineResult::kLine;
  HistEventW event;
  history_w(state_->history, &event, H_ENTER, std::wstring(text).c_str());
  if (!state_->history_works) return LineResult::kLine;
  try {
    state_->history_lines.append(line);
  } catch (const Error& error) {
    state_->history_works = false;
    log_warning(std::string(error.what()) + "; what is typed is not kept for later sessions");
  }
  return LineResult::kLine;
}

}  // namespace deeptitan
