package api_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/receipt"
)

// Each route is described, and nothing else is.
func TestDescriptionHasTheRoutes(t *testing.T) {
	w := newFindWorld(t)
	var routes, described []string
	err := chi.Walk(w.server.Routes(), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routes = append(routes, method+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range readOpenAPI(t, w.world).Paths {
		if item.Route != "" {
			path = item.Route
		}
		for method := range item.operations() {
			described = append(described, method+" "+path)
		}
	}
	slices.Sort(routes)
	slices.Sort(described)
	if diff := cmp.Diff(routes, described); diff != "" {
		t.Errorf("openapi.json differs from the routes (-routes +described):\n%s", diff)
	}
}

// The parameters in a path are those that are described, and every id is used once.
func TestDescriptionNamesItsParameters(t *testing.T) {
	ids := map[string]bool{}
	for path, item := range readOpenAPI(t, newWorld(t)).Paths {
		for method, op := range item.operations() {
			if ids[op.OperationID] {
				t.Errorf("operation %s is there twice", op.OperationID)
			}
			ids[op.OperationID] = true
			var inPath []string
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				inPath = append(inPath, m[1])
			}
			var described []string
			for _, p := range op.Parameters {
				if p.In == "path" {
					described = append(described, p.Name)
				}
				if p.Description == "" || p.Schema == nil || p.In == "path" && !p.Required {
					t.Errorf("%s %s: parameter %s isn't described", method, path, p.Name)
				}
			}
			if !slices.Equal(inPath, described) {
				t.Errorf("%s %s describes the path parameters %q", method, path, described)
			}
		}
	}
}

func TestExamplesFitTheirSchemas(t *testing.T) {
	d := readOpenAPI(t, newWorld(t))
	n := 0
	check := func(where string, s *apiSchema, example any) {
		t.Helper()
		if example == nil {
			return
		}
		n++
		if err := d.check(s, example); err != nil {
			t.Errorf("example of %s: %v", where, err)
		}
	}
	checkMedia := func(where string, content map[string]apiMedia) {
		t.Helper()
		for mediaType, m := range content {
			if m.Schema == nil {
				t.Errorf("%s %s has no schema", where, mediaType)
				continue
			}
			check(where+" "+mediaType, m.Schema, m.Example)
			for name, e := range m.Examples {
				check(where+" "+mediaType+" "+name, m.Schema, e.Value)
			}
			if strings.HasSuffix(mediaType, "json") && m.Example == nil && m.Examples == nil && where != "GET /openapi.json 200" {
				t.Errorf("%s %s has no example", where, mediaType)
			}
		}
	}
	for path, item := range d.Paths {
		for method, op := range item.operations() {
			for _, p := range op.Parameters {
				check(method+" "+path+" "+p.Name, p.Schema, p.Example)
			}
			if op.RequestBody != nil {
				checkMedia(method+" "+path, op.RequestBody.Content)
			}
			for status, r := range op.Responses {
				checkMedia(method+" "+path+" "+status, r.Content)
			}
		}
	}
	if n < 120 {
		t.Errorf("only %d examples were found", n)
	}
}

// The examples of evidence aren't made up: they are what verifies.
func TestExamplesVerify(t *testing.T) {
	d := readOpenAPI(t, newWorld(t))
	example := func(op *apiOperation, status string) []byte {
		body, err := json.Marshal(op.Responses[status].Content["application/json"].Example)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	id, err := receipt.ParseIdentity(example(d.Paths["/v1/identity"].Get, "200"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := receipt.Decode(example(d.Paths["/v1/documents/{id}/receipt"].Get, "200"))
	if err != nil {
		t.Fatal(err)
	}
	report := receipt.Verify(receipt.Input{Digest: r.Digest, Receipt: r, Identity: &id})
	if report.InLog.Status != receipt.Holds {
		t.Errorf("the receipt of the example: %+v", report.InLog)
	}
	op := d.Paths["/v1/commitments"].Post
	one, err := json.Marshal(op.Responses["201"].Content["application/json"].Examples["one"].Value)
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Index           uint64
		Commitment      calpe.Commitment
		Acknowledgement receipt.Promise
	}
	if err := json.Unmarshal(one, &recorded); err != nil {
		t.Fatal(err)
	}
	entry := calpe.Entry{Index: recorded.Index, Commitment: recorded.Commitment}
	if _, err := receipt.VerifyAcknowledged(entry, []byte(recorded.Acknowledgement.Note), recorded.Acknowledgement.Path, id); err != nil {
		t.Errorf("the acknowledgement of the example: %v", err)
	}
}

// Receipts of every kind are as the schema has them, with certifications too.
func TestReceiptSchema(t *testing.T) {
	d := readOpenAPI(t, newWorld(t))
	for _, name := range []string{"received", "checkpointed", "anchored", "certified"} {
		data, err := os.ReadFile("../docs/vectors/receipts/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var r any
		if err := json.Unmarshal(data, &r); err != nil {
			t.Fatal(err)
		}
		if err := d.check(d.Components.Schemas["Receipt"], r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Every code is in the schema, and in the description of an answer with its status.
func TestDescriptionHasTheCodes(t *testing.T) {
	d := readOpenAPI(t, newWorld(t))
	codes := api.AnswerOf()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(codes)), slices.Sorted(slices.Values(d.Components.Schemas["Problem"].Properties["code"].Enum))); diff != "" {
		t.Errorf("the codes of the schema differ (-code +openapi.json):\n%s", diff)
	}
	told := map[string]bool{string("method-not-allowed"): true} // no operation answers with it
	for path, item := range d.Paths {
		for method, op := range item.operations() {
			for status, r := range op.Responses {
				where := method + " " + path + " " + status
				n, _ := strconv.Atoi(status)
				problem, ok := r.Content["application/problem+json"]
				if n < 400 || !ok {
					continue
				}
				named := codesIn(r.Description)
				if len(named) == 0 {
					t.Errorf("%s names no code", where)
				}
				for _, code := range named {
					told[code] = true
					if codes[code] != n {
						t.Errorf("%s names %s, whose status is %d", where, code, codes[code])
					}
				}
				example := problem.Example.(map[string]any)
				code, _ := example["code"].(string)
				if !slices.Contains(named, code) || example["status"] != float64(n) || example["title"] != api.TitleOf(code) || example["type"] != "urn:calpe:error:"+code {
					t.Errorf("%s: example %v", where, example)
				}
			}
		}
	}
	for code := range codes {
		if !told[code] {
			t.Errorf("no operation's answers name %s", code)
		}
	}
}

// What is in components is used somewhere, if only by its name in a description.
func TestDescriptionHasNoOrphans(t *testing.T) {
	w := newWorld(t)
	text := w.do("GET", "/openapi.json", nil).body
	c := readOpenAPI(t, w).Components
	names := slices.Concat(slices.Collect(maps.Keys(c.Parameters)), slices.Collect(maps.Keys(c.Responses)),
		slices.Collect(maps.Keys(c.Headers)), slices.Collect(maps.Keys(c.Schemas)))
	for _, name := range names {
		if len(regexp.MustCompile(`\b`+name+`\b`).FindAll(text, 2)) < 2 {
			t.Errorf("nothing refers to %s", name)
		}
	}
}
