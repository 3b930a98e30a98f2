// ChatTemplate::render_turns: where in a rendered conversation the assistant's turns stand.
#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chat/chat_template.h"
#include "core/error.h"

namespace deeptitan {
namespace {

// Messages before an answer that its generation prompt is rendered from, besides those of the system.
constexpr size_t kMessagesBefore = 16;

constexpr size_t kNowhere = std::string::npos;

// The text that a message gives the template under one of its keys.
struct SourceText {
  size_t message;
  std::string key;  // the outermost one
  std::string text;
};

bool opens_conversation(const ChatMessage& message) {
  return message.role == "system" || message.role == "developer";
}

// Every text of a message but its role, numbered.
jinja::Value traced(const jinja::Value& value, size_t message, const std::string& key,
                    std::vector<SourceText>& sources) {
  if (value.is_string()) {
    sources.push_back({message, key, value.as_string()});
    return jinja::Value::traced(value.as_string(), static_cast<int32_t>(sources.size() - 1));
  }
  if (const jinja::Sequence* list = value.as_sequence()) {
    std::vector<jinja::Value> items;
    for (const jinja::Value& item : list->items) items.push_back(traced(item, message, key, sources));
    return jinja::Value::list(std::move(items));
  }
  if (const jinja::Dict* dict = value.as_dict()) {
    jinja::Dict out;
    for (const auto& [name, item] : dict->items()) {
      const bool outermost = key.empty();
      if (outermost && name.as_string() == "role") {
        out.set(name, item);
      } else {
        out.set(name, traced(item, message, outermost ? name.as_string() : key, sources));
      }
    }
    return jinja::Value::dict(std::move(out));
  }
  return value;
}

size_t common_prefix(std::string_view a, std::string_view b) {
  const size_t most = std::min(a.size(), b.size());
  return static_cast<size_t>(std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(most), b.begin()).first -
                             a.begin());
}

// `text` without white space and without the tags around reasoning, which templates write themselves.
std::string without_tags(std::string text) {
  for (const std::string_view tag : {"<think>", "</think>"}) {
    for (size_t at = text.find(tag); at != kNowhere; at = text.find(tag, at)) text.erase(at, tag.size());
  }
  std::erase_if(text, [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; });
  return text;
}

// What of a text stands in a rendering nowhere.
std::string left_out(const jinja::TracedText& rendered, int32_t source, const std::string& text) {
  std::vector<bool> kept(text.size(), false);
  for (const jinja::Origin& origin : rendered.origins()) {
    if (origin.source != source) continue;
    if (origin.offset == jinja::Origin::kDerived) return "";
    std::fill_n(kept.begin() + static_cast<std::ptrdiff_t>(origin.offset), origin.end - origin.begin, true);
  }
  std::string rest;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!kept[i]) rest += text[i];
  }
  return rest;
}

// Where the bytes of a message stand in a rendering (the last run of them, if the template repeats it), and the end of
// what stands before them that came from another message.
struct Place {
  size_t begin = kNowhere;
  size_t end = kNowhere;
  size_t before = 0;
};

std::vector<Place> places_of(const jinja::TracedText& rendered, const std::vector<SourceText>& sources, size_t count) {
  std::vector<Place> places(count);
  size_t end_before = 0;
  size_t last = kNowhere;
  for (const jinja::Origin& origin : rendered.origins()) {
    const size_t message = sources[static_cast<size_t>(origin.source)].message;
    if (message != last) {
      places[message] = {origin.begin, origin.end, end_before};
    } else {
      places[message].end = origin.end;
    }
    end_before = origin.end;
    last = message;
  }
  return places;
}

// The place of one message.
Place place_of(const jinja::TracedText& rendered, const std::vector<SourceText>& sources, size_t message) {
  Place place;
  size_t last = kNowhere;
  for (const jinja::Origin& origin : rendered.origins()) {
    const size_t owner = sources[static_cast<size_t>(origin.source)].message;
    if (owner == message && last != message) place.begin = origin.begin;
    if (owner == message) place.end = origin.end;
    last = owner;
  }
  return place;
}

// What the template wrote behind the last byte that came from a message.
std::string_view tail_of(const jinja::TracedText& rendered) {
  const size_t end = rendered.origins().empty() ? 0 : rendered.origins().back().end;
  return std::string_view(rendered.bytes()).substr(end);
}

}  // namespace

RenderedTurns ChatTemplate::render_turns(const std::vector<ChatMessage>& messages,
                                         const ChatRenderOptions& options) const {
  check_options(options);
  std::vector<SourceText> sources;
  std::vector<jinja::Value> values;
  for (size_t i = 0; i < messages.size(); ++i)
    values.push_back(traced(value_of(message_value(messages[i])), i, "", sources));
  const jinja::TracedText whole = render_values(values, options, false);
  const std::string_view text = whole.bytes();
  const std::vector<Place> places = places_of(whole, sources, messages.size());
  size_t leading = 0;
  while (leading < messages.size() && opens_conversation(messages[leading])) ++leading;
  const jinja::Value* eos_value = special_tokens_.find("eos_token");
  const std::string eos = eos_value == nullptr ? "" : eos_value->as_string();

  // The beginning of the conversation up to message `end` (not included): whole, or what opens it and the last few,
  // from a user's message on. The whole one too where a template wants it.
  const auto render_until = [&](size_t end, size_t answer, bool add_generation_prompt) {
    size_t start = leading;
    if (answer > leading + kMessagesBefore) {
      start = answer - kMessagesBefore;
      const size_t earliest = std::max(leading, start - std::min(start, kMessagesBefore));
      while (start > earliest && messages[start].role != "user") --start;
    }
    const auto render_from = [&](size_t first) {
      std::vector<jinja::Value> some(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(leading));
      some.insert(some.end(), values.begin() + static_cast<std::ptrdiff_t>(first),
                  values.begin() + static_cast<std::ptrdiff_t>(end));
      return render_values(std::move(some), options, add_generation_prompt);
    };
    if (start == leading) return render_from(leading);
    try {
      return render_from(start);
    } catch (const Error&) {
      return render_from(leading);
    }
  };

  // What the model has before it when it writes answer i; nothing where it writes first and the template wants a
  // message.
  const auto prompt_before = [&](size_t i) -> std::optional<jinja::TracedText> {
    if (i > 0) return render_until(i, i, true);
    try {
      return render_values({}, options, true);
    } catch (const Error&) {
      return std::nullopt;
    }
  };

  // Sources are numbered message by message.
  std::vector<size_t> first_source(messages.size() + 1, sources.size());
  for (size_t s = sources.size(); s-- > 0;) first_source[sources[s].message] = s;
  for (size_t i = messages.size(); i-- > 0;) first_source[i] = std::min(first_source[i], first_source[i + 1]);

  RenderedTurns turns;
  size_t done = 0;
  size_t missing = kNowhere;  // the first message that has a text and left nothing in the rendering
  size_t end_before = 0;      // of what came from the messages before this one
  for (size_t i = 0; i < messages.size(); ++i) {
    const Place& place = places[i];
    if (place.begin == kNowhere && missing == kNowhere && !messages[i].content.empty()) missing = i;
    if (messages[i].role != "assistant") {
      if (place.begin != kNowhere) end_before = place.end;
      continue;
    }
    const bool is_last = i + 1 == messages.size();
    const jinja::TracedText alone_text = is_last ? whole : render_until(i + 1, i, false);
    const std::string_view alone = alone_text.bytes();
    for (size_t s = first_source[i]; s < first_source[i + 1]; ++s) {
      const SourceText& source = sources[s];
      if (source.key != "content" && !source.key.starts_with("reasoning")) continue;
      DT_CHECK(without_tags(left_out(alone_text, static_cast<int32_t>(s), source.text)).empty(),
               "the chat template alters the text of message {} (assistant), so no loss can be placed on it; write "
               "the message as the template prints it (R1 templates drop what stands before </think>)",
               i);
    }
    const Place place_alone = place_of(alone_text, sources, i);
    DT_CHECK(place.begin != kNowhere || place_alone.begin == kNowhere,
             "message {} ({}) changes how the chat template renders the messages before it; this template cannot be "
             "trained on turn by turn",
             missing + 1, messages[missing + 1].role);

    // From the end of what came from the message before, as the prompt has it, to the answer: what the template wrote.
    const size_t own_begin = place.begin != kNowhere ? place.begin : text.size();
    size_t gap_begin = place.begin != kNowhere ? place.before : end_before;
    TextSpan span{own_begin, own_begin};
    if (const std::optional<jinja::TracedText> prompt = prompt_before(i)) {
      if (prompt->origins().empty()) {
        gap_begin = 0;
      } else {
        const size_t before = sources[static_cast<size_t>(prompt->origins().back().source)].message;
        if (places[before].end != kNowhere && places[before].end <= own_begin) gap_begin = places[before].end;
      }
      const std::string_view opening = tail_of(*prompt);
      const std::string_view gap = text.substr(gap_begin, own_begin - gap_begin);
      if (text.substr(gap_begin).starts_with(opening)) {
        span.begin = gap_begin + opening.size();
      } else {
        const size_t shared = common_prefix(gap, opening);
        span.begin = gap_begin + shared;
        span.begin_may_cut = shared < gap.size();
      }
    }
    span.begin = std::max(span.begin, done);

    // From the end of the answer on: what the template wrote behind it, as far as it does so whatever follows.
    const size_t own_end = std::max(place.begin != kNowhere ? place.end : gap_begin, span.begin);
    size_t alone_end = place_alone.begin != kNowhere ? place_alone.end : alone.size() - tail_of(alone_text).size();
    alone_end = std::min(alone.size(), alone_end + own_end - (place.begin != kNowhere ? place.end : gap_begin));
    const std::string_view ending = text.substr(own_end, common_prefix(text.substr(own_end), alone.substr(alone_end)));
    size_t found = eos.empty() ? kNowhere : ending.find(eos);
    const bool parts = alone_end + ending.size() < alone.size();
    if (found == kNowhere && !eos.empty()) {
      // What ends the conversation ends otherwise here: then with what stands before the next message.
      auto next = std::lower_bound(whole.origins().begin(), whole.origins().end(), own_end,
                                   [](const jinja::Origin& origin, size_t at) { return origin.begin < at; });
      while (next != whole.origins().end() && sources[static_cast<size_t>(next->source)].message == i) ++next;
      const size_t limit = next == whole.origins().end() ? text.size() : next->begin;
      found = text.substr(own_end, limit - own_end).find(eos);
    }
    span.end = own_end + (found == kNowhere ? ending.size() : found + eos.size());
    span.end_may_cut = found == kNowhere && parts;
    turns.assistant.push_back(span);
    done = span.end;
    if (place.begin != kNowhere) end_before = place.end;
  }
  turns.text = whole.bytes();
  return turns;
}

}  // namespace deeptitan
