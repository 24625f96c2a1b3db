from gpt.corpus.documents import MAX_NOTICES, Notices


def test_of_many_files_that_are_alike_the_first_are_named(said):
    notices = Notices()
    for number in range(100):
        notices.say("divided files", f"{number}.txt")
    notices.say("others", "x.txt", warns=True)
    assert said == [
        *(f"{number}.txt" for number in range(MAX_NOTICES)),
        f"more files like the last {MAX_NOTICES} (divided files) are not named",
        "x.txt",
    ]
