package main

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// clean makes text from outside safe to print: no byte of it can move the
// cursor or colour what follows. Lines stay lines.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}

// shown is a file's name in a message: as it is, or quoted if it holds anything
// that a terminal wouldn't show.
func shown(name string) string {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if strings.ContainsFunc(name, odd) {
		return strconv.Quote(name)
	}
	return name
}

// maxName is the longest file name that a service takes, in bytes.
const maxName = 255

// sentName is the name of a file as the service takes it: the last element of
// its path in UTF-8, without control characters, not too long.
func sentName(base string) string {
	name := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '/' || r == '\\' {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(base, "\uFFFD"))
	for len(name) > maxName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}
