#include "data/text_documents.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "data/source_files.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

namespace deeptitan {
namespace {

struct Read {
  std::vector<std::string> documents;
  TextStatistics statistics;
};

Read read_all(const TextSource& source, const std::string& path) {
  Read read;
  read.statistics = for_each_document(
      source, path, [&](std::string_view d, const std::string& /*where*/) { read.documents.emplace_back(d); });
  return read;
}

using Documents = std::vector<std::string>;

std::string bytes_of(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

TEST(TextDocuments, AFileIsOneDocument) {
  const TemporaryFolder folder;
  const Read read = read_all({}, folder.write("a.txt", "one\n\ntwo\n"));
  EXPECT_EQ(read.documents, (Documents{"one\n\ntwo\n"}));
  EXPECT_EQ(read.statistics.files, 1);
  EXPECT_EQ(read.statistics.bytes, 9);
}

TEST(TextDocuments, SeparatorSplitsAndBlankDocumentsVanish) {
  const TemporaryFolder folder;
  TextSource source;
  source.document_separator = "\n\n";
  const std::string path = folder.write("a.txt", "\n\none\ntwo\n\n\n\n \n\nthree");
  EXPECT_EQ(read_all(source, path).documents, (Documents{"one\ntwo", "three"}));
}

TEST(TextDocuments, ALineFeedInASeparatorStandsForTheFilesLineEnd) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a.txt", "one\r\ntwo\r\n\r\n\r\n\r\n \r\n\r\nthree\n\nfour\r\n\nfive\r\n");
  for (const std::string separator : {"\n\n", "\r\n\r\n"}) {
    TextSource source;
    source.document_separator = separator;
    EXPECT_EQ(read_all(source, path).documents, (Documents{"one\r\ntwo", "three", "four", "five\r\n"}));
  }
  TextSource marked;
  marked.document_separator = "\n---\n";
  EXPECT_EQ(read_all(marked, folder.write("b.txt", "a\r\n---\r\nb\n---\nc\r---\r\nd")).documents,
            (Documents{"a", "b", "c\r---\r\nd"}));
  marked.document_separator = "===";
  EXPECT_EQ(read_all(marked, folder.write("c.txt", "a===b\r\n")).documents, (Documents{"a", "b\r\n"}));
}

TEST(TextDocuments, JsonIsFoundByItsContentWhateverTheName) {
  const TemporaryFolder folder;
  const std::string lines = "{\"text\": \"a {b\"}\n{\"text\": \"c\"}\n";
  for (const std::string name : {"x.json", "x.ndjson", "x.JSONL", "x.jsonl.txt", "x.txt", "x", "x.NDJSON.1"}) {
    EXPECT_EQ(read_all({}, folder.write(name, lines)).documents, (Documents{"a {b", "c"})) << name;
  }
  for (const std::string name : {"y.json", "y.txt", "y.jsonl"}) {
    EXPECT_EQ(read_all({}, folder.write(name, " [{\"text\": \"a ]\\\"b\"},\n {\"id\": [1, {}], \"text\": \"c\"}]\n"))
                  .documents,
              (Documents{"a ]\"b", "c"}))
        << name;
  }
  EXPECT_EQ(read_all({}, folder.write("z.json", "{\n \"text\": \"a\"\n}\n{\n \"text\": \"b\"\n}")).documents,
            (Documents{"a", "b"}));
  EXPECT_EQ(read_all({}, folder.write("one.json", "{\"text\": \"a\"}")).documents, (Documents{"a"}));
  EXPECT_EQ(read_all({}, folder.write("strings.json", "[\"a\", \"b\"]")).documents, (Documents{"a", "b"}));
}

TEST(TextDocuments, WhatIsNoListOfDocumentsStaysText) {
  const TemporaryFolder folder;
  for (const std::string text :
       {"{not json}", "[1] a footnote\n[2] another", "{\n  \"name\": \"package\"\n}\n", "[]", "{}",
        "{\"name\": \"package\", \"text\": 3}", "[\"a\", b]", "[1, 2, 3]", "{\"a\": 1}\nnot json"}) {
    EXPECT_EQ(read_all({}, folder.write("a.json", text)).documents, (Documents{text})) << text;
    EXPECT_EQ(read_all({}, folder.write("a.txt", text)).documents, (Documents{text})) << text;
  }
  TextSource plain;
  plain.format = SourceFormat::kPlain;
  const std::string lines = "{\"text\": \"a\"}\n{\"text\": \"c\"}\n";
  EXPECT_EQ(read_all(plain, folder.write("a.jsonl", lines)).documents, (Documents{lines}));
}

// {"data": [...]}, as many programs write a data set: never learnt with its braces.
TEST(TextDocuments, AListInOneObjectIsReadAsTheListItself) {
  const TemporaryFolder folder;
  const auto read = [&](const std::string& text, const std::string& name = "a.json") {
    return read_all({}, folder.write(name, text)).documents;
  };
  const Documents both = {"a ]", "b"};
  for (const std::string rows :
       {R"([{"text": "a ]"}, {"text": "b"}])", "[ {\"text\": \"a ]\"},\n\n{\"text\": \"b\"} ]"}) {
    EXPECT_EQ(read("{\"data\": " + rows + "}"), both);
    EXPECT_EQ(read("{\"data\": " + rows + "}\n", "a.txt"), both);
    EXPECT_EQ(read("\xEF\xBB\xBF{\n \"version\": \"1\",\n \"n\": 2, \"ok\": null, \"train\": " + rows + "\n}\n"), both);
    EXPECT_EQ(read("{\"whatever\": " + rows + ", \"features\": [{\"name\": \"text\"}]}"), both);
  }
  EXPECT_EQ(read(R"({"data": ["a ]", "b"]})"), both);
  EXPECT_EQ(read(R"({"text": ["a ]", "b"], "id": [1, 2]})"), both);
  const auto refused = [&](const std::string& text, const std::string& message) {
    const std::string path = folder.write("a.json", text);
    const std::string found = message_of([&] { read_all({}, path); });
    EXPECT_TRUE(found.starts_with(path + message)) << found;
  };
  refused("{\"data\": [\n{\"text\": \"a\"},\n{\"body\": \"b\"}]}",
          ":3: no field 'text' (fields: body); set text_field");
  refused(R"({"data": [{"body": "b"}]})", ":1: no field 'text' (fields: body); set text_field");
  refused(R"({"train": [{"text": "a"}], "test": [{"text": "b"}]})",
          " is one object with several lists that may be meant (train, test); make a file of one: python3 -c ");
  refused("{\n\"text\": {\"0\": \"a\", \"1\": \"b\"}}", ":2: field 'text' is an object: a table by columns");
  const std::string advice = "; set format = \"chat\" for the source to train on conversations";
  refused(R"({"conversations": [{"from": "human", "value": "a"}]})", ":1: no field 'text', but conversations" + advice);
  refused("{\n\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}", ":1: no field 'text', but messages" + advice);
  refused(R"({"instruction": "a", "output": "b"})", ":1: no field 'text', but instruction and output" + advice);
  refused(R"({"data": [{"prompt": "a", "completion": "b"}]})",
          ":1: no field 'text', but prompt and completion" + advice);
}

TEST(TextDocuments, AChatInOneObjectOrListIsReadAsTheConversationsInIt) {
  const TemporaryFolder folder;
  TextSource source;
  source.format = SourceFormat::kChat;
  const auto read = [&](const std::string& text) { return read_all(source, folder.write("a.json", text)).documents; };
  const std::string one = R"({"messages": [{"role": "assistant", "content": "a"}]})";
  const std::string list = R"([{"role": "assistant", "content": "a"}])";
  for (const std::string& chat : {one, list}) {
    EXPECT_EQ(read("[" + chat + ", " + chat + "]"), (Documents{chat, chat}));
    EXPECT_EQ(read("[\n" + chat + "\n,\n" + chat + "]"), (Documents{chat, chat}));
    EXPECT_EQ(read("{\"version\": 1, \"conversations\": [" + chat + ", " + chat + "]}"), (Documents{chat, chat}));
    EXPECT_EQ(read("{\n\"train\": [" + chat + "]\n}"), (Documents{chat}));
    EXPECT_EQ(read("{\"messages\": [" + chat + "]}"), (Documents{chat}));
    EXPECT_EQ(read(chat), (Documents{chat}));
    EXPECT_EQ(read(chat + "\n" + chat), (Documents{chat, chat}));
  }
  const std::string spread = "[\n{\"role\": \"assistant\",\n\"content\": \"a\"}\n]";
  EXPECT_EQ(read(spread), (Documents{spread}));
  const std::string share = "{\n\"conversations\":\n[{\"from\": \"gpt\", \"value\": \"a\"}]}";
  EXPECT_EQ(read(share), (Documents{share}));
  EXPECT_EQ(read(R"({"instruction": "a", "output": "b", "history": []})").size(), 1u);
}

TEST(TextDocuments, JsonWithoutTheFieldIsAnErrorAndNotText) {
  const TemporaryFolder folder;
  const auto expect = [&](const std::string& text, const std::string& message) {
    const std::string path = folder.write("a.json", text);
    expect_usage_error([&] { read_all({}, path); }, path + message);
  };
  const std::string advice =
      "set text_field of the source to the one that holds the text, or format = \"plain\" to train on the JSON as it "
      "stands";
  expect("{\"body\": \"a\"}\n{\"body\": \"b\"}\n", ":1: no field 'text' (fields: body); " + advice);
  expect("[{\"body\": \"a\"},\n{\"body\": \"b\"}]", ":1: no field 'text' (fields: body); " + advice);
  expect("[{\"text\": \"a\"},\n{\"text\": \"b\"}, {\"te",
         ": expected a JSON list to the end of the file; what follows line 2 is not, or is cut short");
}

TEST(TextDocuments, CompressedFilesCountAsWhatTheyHold) {
  const TemporaryFolder folder;
  // gzip and zstd of {"text": "a"}\n{"text": "b"}\n, made by the programs of these names.
  const std::string gzip = bytes_of("1f8b0800000000000203ab562a49ad2851b252504a54aae5aa86f392803c003dbde6101c000000");
  const std::string zstd = bytes_of("28b52ffd241cc50000907b2274657874223a202261227d0a62227d0a0100b14d25787d3d1a");
  {
    const std::string file = folder.write("a.gz", gzip),
                      before = std::getenv("TMPDIR") ? std::getenv("TMPDIR") : "/tmp";
    ::setenv("TMPDIR", "/nowhere", 1);
    expect_runtime_error(
        [&] { read_all({}, file); },
        file +
            " cannot be unpacked: TMPDIR names no folder (No such file or directory); let it name one with "
            "room for what the file holds");
    ::setenv("TMPDIR", before.c_str(), 1);
  }
  for (const std::string name : {"a.jsonl.gz", "a.json.zst", "a"}) {
    EXPECT_EQ(read_all({}, folder.write(name, gzip)).documents, (Documents{"a", "b"})) << name;
    EXPECT_EQ(read_all({}, folder.write(name, zstd)).documents, (Documents{"a", "b"})) << name;
    EXPECT_EQ(read_all({}, folder.write(name, gzip + gzip)).documents, (Documents{"a", "b", "a", "b"})) << name;
    EXPECT_EQ(read_all({}, folder.write(name, zstd + zstd)).documents, (Documents{"a", "b", "a", "b"})) << name;
  }
  const auto expect_damaged = [&](const std::string& bytes, const std::string& kind) {
    const std::string path = folder.write("cut", bytes);
    const std::string message = message_of([&] { read_all({}, path); });
    EXPECT_TRUE(message.starts_with(path + ": the " + kind + " data is damaged (")) << message;
  };
  for (size_t size = 4; size < gzip.size(); ++size) expect_damaged(gzip.substr(0, size), "gzip");
  for (size_t size = 5; size < zstd.size(); ++size) expect_damaged(zstd.substr(0, size), "zstd");
  std::string flipped = gzip;
  flipped[gzip.size() - 6] ^= 1;  // of the checksum
  expect_damaged(flipped, "gzip");
}

TEST(TextDocuments, BinaryFilesOfADirectoryAreLeftOutAndCounted) {
  const TemporaryFolder folder;
  folder.write("t/a.py", "print(1)\n");
  folder.write("t/a.pyc", std::string("\xa7\r\r\n\0\0\0\0abc", 11));
  folder.write("t/lib.so", std::string("\x7f"
                                       "ELF\x02\x01\x01\0",
                                       8));
  folder.write("t/data.parquet", "PAR1 abc");
  folder.write("t/latin.txt",
               "Stra\xdf"
               "e, Gr\xfc\xdf"
               "e und vieles mehr in einer Zeile");
  const SourceFiles files = list_source_files({}, folder.path() / "t");
  EXPECT_EQ(files.files.size(), 2u);
  EXPECT_EQ(files.binary, 3);
  EXPECT_EQ(files.first_binary, folder.path() / "t/a.pyc");
  EXPECT_EQ(files.first_binary_holds, "a NUL byte at 4");
  EXPECT_EQ(read_all({}, (folder.path() / "t").string()).documents.size(), 2u);
}

TEST(TextDocuments, ABinaryFileByItselfIsRefusedWithTheCommandThatConvertsIt) {
  const TemporaryFolder folder;
  const auto expect = [&](const std::string& name, const std::string& bytes, const std::string& message) {
    const std::string path = folder.write(name, bytes);
    const std::string found = message_of([&] { read_all({}, path); });
    EXPECT_TRUE(found.starts_with(path + " holds no text that can be read (" + message)) << found;
  };
  expect("x.parquet", "PAR1....",
         "Parquet); this converts it: python3 -c \"import pandas; pandas.read_parquet('" +
             (folder.path() / "x.parquet").string() + "').to_json('x.jsonl', orient='records', lines=True)\"");
  expect("x.txt",
         std::string("\xff\xfe"
                     "a\0",
                     4),
         "UTF-16); this converts it: iconv -f UTF-16 -t UTF-8 ");
  expect("x.xz",
         "\xFD"
         "7zXZ",
         "xz); this converts it: unxz -k ");
  expect("x.bin", std::string("ab\0", 3), "a NUL byte at 2); name a text or JSON file");
  std::string ill_formed;
  for (int i = 0; i < 20; ++i) ill_formed += "\xff\xfa a";
  expect("y.bin", ill_formed, "50 % ill-formed UTF-8); name a text or JSON file");
}

TEST(TextDocuments, PatternsChooseTheFilesOfADirectory) {
  const TemporaryFolder folder;
  for (const std::string name : {"a.md", "b.txt", "sub/c.md", "sub/deep/d.md", "sub/e.py"})
    folder.write("t/" + name, name);
  const auto read = [&](const std::vector<std::string>& include, const std::vector<std::string>& exclude) {
    TextSource source;
    source.include = include;
    source.exclude = exclude;
    return read_all(source, (folder.path() / "t").string()).documents;
  };
  EXPECT_EQ(read({"*.md"}, {}), (Documents{"a.md", "sub/c.md", "sub/deep/d.md"}));
  EXPECT_EQ(read({}, {"*.md", "b.*"}), (Documents{"sub/e.py"}));
  EXPECT_EQ(read({"sub/*"}, {"sub/deep/*"}), (Documents{"sub/c.md", "sub/e.py"}));
  EXPECT_EQ(read({"[ab].*"}, {}), (Documents{"a.md", "b.txt"}));
  TextSource none;
  none.include = {"*.rst"};
  const std::string root = (folder.path() / "t").string();
  expect_usage_error([&] { read_all(none, root); },
                     "the directory " + root +
                         " holds no text; expected text or JSON files, and include and exclude leave "
                         "out 5 of 5 files");
}

TEST(TextDocuments, ByteOrderMarkIsNotText) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_all({}, folder.write("a.txt", "\xEF\xBB\xBFhello")).documents, (Documents{"hello"}));
}

TEST(TextDocuments, DirectoriesAreReadInTheOrderOfNamesWithoutHiddenFiles) {
  const TemporaryFolder folder;
  folder.write("t/b.txt", "2");
  folder.write("t/a/z.txt", "1");
  folder.write("t/c.jsonl", "{\"text\": \"3\"}\n{\"text\": \"4\"}\n");
  folder.write("t/.hidden", "x");
  folder.write("t/.git/y", "x");
  const Read read = read_all({}, (folder.path() / "t").string());
  EXPECT_EQ(read.documents, (Documents{"1", "2", "3", "4"}));
  EXPECT_EQ(read.statistics.files, 3);
}

TEST(TextDocuments, JsonLinesTakeTheNamedField) {
  const TemporaryFolder folder;
  TextSource source;
  source.text_field = "content";
  const std::string path = folder.write(
      "a.jsonl", "{\"content\": \"a\\nb\", \"id\": 1}\r\n\n{\"content\": \"\"}\n{\"content\": \"\\u00e9\"}");
  EXPECT_EQ(read_all(source, path).documents, (Documents{"a\nb", "\xC3\xA9"}));
}

TEST(TextDocuments, WhatIsNotUtf8IsReplacedAndCounted) {
  const TemporaryFolder folder;
  Read read = read_all({}, folder.write("a.txt", "a\xFFz\xC3"));
  EXPECT_EQ(read.documents, (Documents{"a\xEF\xBF\xBDz\xEF\xBF\xBD"}));
  EXPECT_EQ(read.statistics.replaced_characters, 2);
  read = read_all({}, folder.write("b.jsonl", "{\"text\": \"q\xFF\"}"));
  EXPECT_EQ(read.documents, (Documents{"q\xEF\xBF\xBD"}));
  EXPECT_EQ(read.statistics.replaced_characters, 1);
}

TEST(TextDocuments, MistakesNameFileAndLine) {
  const TemporaryFolder folder;
  const std::string root = folder.path().string();
  expect_usage_error([&] { read_all({}, root + "/none.txt"); },
                     "cannot read the text " + root + "/none.txt: no such file or directory");
  std::filesystem::create_symlink("loop", folder.path() / "loop");
  expect_usage_error([&] { read_all({}, root + "/loop"); },
                     "cannot read the text " + root + "/loop: Too many levels of symbolic links");
  std::filesystem::remove(folder.path() / "loop");
  expect_usage_error([&] { read_all({}, root); },
                     "the directory " + root + " holds no text; expected text or JSON files");
  std::string path = folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
  expect_usage_error([&] { read_all({}, path); }, path + ":2: not valid JSON: it ends too early (byte 10, at text)");
  path = folder.write("a.jsonl", "{\"texts\": \"a\", \"id\": 3}\n");
  expect_usage_error(
      [&] { read_all({}, path); },
      path +
          ":1: no field 'text'; did you mean 'texts'? (fields: id, texts); set text_field of the "
          "source to the one that holds the text, or format = \"plain\" to train on the JSON as it stands");
  path = folder.write("a.jsonl", "{\"text\": 3}\n");
  expect_usage_error([&] { read_all({}, path); }, path + ":1: field 'text' is number; expected a text");
  path = folder.write("a.jsonl", "[3]\n");
  expect_usage_error([&] { read_all({}, path); }, path + ":1: expected a JSON object, found array");
}

// Python's json.dumps writes NaN for a missing score, and half a pair where a text was cut between its halves.
TEST(TextDocuments, WhatPythonWritesBeyondJsonIsNamedWhereItIsWanted) {
  const TemporaryFolder folder;
  std::string path =
      folder.write("a.jsonl", "{\"text\": \"a\", \"score\": NaN, \"title\": \"\\ud83d\", \"n\": 1e999}\n");
  EXPECT_EQ(read_all({}, path).documents.size(), 1u);
  path = folder.write("a.jsonl", "{\"text\": \"a\\ud83d b\"}\n");
  expect_usage_error([&] { read_all({}, path); },
                     path + ":1: field 'text' is a string with half a surrogate pair, \"a\\ud83d b\"; expected a text");
  path = folder.write("a.jsonl", "{\"text\": NaN}\n");
  expect_usage_error([&] { read_all({}, path); },
                     path + ":1: field 'text' is NaN, which is no number of JSON; expected a text");
}

TEST(TextDocuments, OfAChatEveryLineIsADocumentWithItsPlace) {
  const TemporaryFolder folder;
  TextSource source;
  source.format = SourceFormat::kChat;
  const std::string path = folder.write("t/a.txt", "{one}\n\n \r\n{two}\r\n");
  folder.write("t/b.jsonl", "\xEF\xBB\xBF{three\xFF}");
  std::vector<std::string> documents, places;
  const TextStatistics statistics = for_each_document(source, (folder.path() / "t").string(),
                                                      [&](std::string_view document, const std::string& where) {
                                                        documents.emplace_back(document);
                                                        places.push_back(where);
                                                      });
  EXPECT_EQ(documents, (Documents{"{one}", "{two}\r", "{three\xEF\xBF\xBD}"}));
  EXPECT_EQ(places, (Documents{path + ":1", path + ":4", (folder.path() / "t/b.jsonl").string() + ":1"}));
  EXPECT_EQ(statistics.documents, 3);
  EXPECT_EQ(statistics.replaced_characters, 1);
}

TEST(TextDocuments, AChatReadAsTextIsToldWhatToSet) {
  const TemporaryFolder folder;
  const std::string path = folder.write("a.jsonl", "{\"messages\": []}\n");
  expect_usage_error([&] { read_all({}, path); },
                     path +
                         ":1: no field 'text', but messages; set format = \"chat\" for the source to train on "
                         "conversations");
}

}  // namespace
}  // namespace deeptitan
