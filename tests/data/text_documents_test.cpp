#include "data/text_documents.h"

#include <gtest/gtest.h>

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
  expect_usage_error([&] { read_all({}, root); },
                     "the directory " + root + " holds no text; expected text files or .jsonl files");
  std::string path = folder.write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
  expect_usage_error([&] { read_all({}, path); }, path + ":2: expected a JSON object on each line of a .jsonl file");
  path = folder.write("a.jsonl", "{\"texts\": \"a\", \"id\": 3}\n");
  expect_usage_error([&] { read_all({}, path); },
                     path +
                         ":1: no field 'text'; did you mean 'texts'? (fields: id, texts); set text_field of the "
                         "source to the one that holds the text");
  path = folder.write("a.jsonl", "{\"text\": 3}\n");
  expect_usage_error([&] { read_all({}, path); }, path + ":1: field 'text' is number; expected a text");
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
