package api

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"html/template"
	"net/http"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

//go:embed home.html
var homeTemplate string

// homeAnswer says what this server is, and where everything else is.
type homeAnswer struct {
	Service     string        `json:"service"`
	Origin      string        `json:"origin"`
	Network     calpe.Network `json:"network"`
	Docs        string        `json:"docs"`
	Description string        `json:"description"`
	Status      string        `json:"status"`
	Identity    string        `json:"identity"`
	Checkpoint  string        `json:"checkpoint"`
	Test        bool          `json:"-"`
}

// home is that answer for programs, and for people.
type home struct{ json, page []byte }

func renderHome(identity receipt.Identity) (home, error) {
	answer := homeAnswer{
		Service: "Calpe", Origin: identity.Origin, Network: identity.Network, Test: identity.Network.IsTest(),
		Docs: "/docs", Description: "/openapi.json", Status: "/v1/status", Identity: "/v1/identity", Checkpoint: "/log/checkpoint",
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return home{}, err
	}
	t, err := template.New("home").Parse(homeTemplate)
	if err != nil {
		return home{}, err
	}
	var page bytes.Buffer
	err = t.Execute(&page, answer)
	return home{json: append(text, '\n'), page: page.Bytes()}, err
}

// getHome answers whoever has only the server's name: a page for those who
// prefer HTML, JSON for everybody else.
func (s *Server) getHome(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Vary", "Accept")
	if negotiate(r.Header.Values("Accept"), "application/json", "text/html") == "text/html" {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		writePublic(w, r, "text/html; charset=utf-8", s.home.page)
		return nil
	}
	writePublic(w, r, "application/json", s.home.json)
	return nil
}
