"""The demo: captions of files and of live speech, descriptions, and music from text, as one page (`hfaudio demo`)."""
