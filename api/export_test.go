package api

import (
	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
)

// For the tests of what parses bytes from outside.
var (
	ParseContentDigest = parseContentDigest
	ParseRange         = parseRange
	TileEnd            = tileEnd
	ReadForm           = readForm
)

// AnswerOf gives the status of each code.
func AnswerOf() map[string]int {
	all := map[string]int{}
	for code, a := range answerOf {
		all[string(code)] = a.status
	}
	return all
}

// TitleOf gives the title of a code.
func TitleOf(code string) string { return answerOf[calpe.Code(code)].title }

// Routes are what the description is held against.
func (s *Server) Routes() chi.Routes { return s.routes }
