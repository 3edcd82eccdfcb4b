"""What a finished run says, for people: made from the files of the run alone, offline, without torch."""
