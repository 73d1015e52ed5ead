package api

// For the tests of what parses bytes from outside.
var (
	ParseContentDigest = parseContentDigest
	ParseRange         = parseRange
	TileEnd            = tileEnd
	ReadForm           = readForm
)

// AnswerOf gives the status and whether Retry-After is sent for each code.
func AnswerOf() map[string]int {
	all := map[string]int{}
	for code, a := range answerOf {
		all[string(code)] = a.status
	}
	return all
}
