package anchor_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/testing.md says which test shows what. Each row of it has one, and each
// exists.
func TestTestingPage(t *testing.T) {
	page, err := os.ReadFile("../docs/testing.md")
	if err != nil {
		t.Fatal(err)
	}
	exists := testNames(t, "..")
	named := regexp.MustCompile("`([a-z0-9]+\\.Test[A-Za-z0-9]+)`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		names := named.FindAllStringSubmatch(line, -1)
		for _, n := range names {
			if !exists[n[1]] {
				t.Errorf("there is no %s, which this names: %s", n[1], line)
			}
		}
		if cells := strings.Split(line, "|"); len(cells) == 5 && !strings.HasPrefix(line, "|---") && !strings.Contains(cells[2], "fake") && !strings.HasPrefix(cells[1], " kind") {
			if rows++; len(names) == 0 && !strings.Contains(line, "`make test`") && !strings.Contains(line, "`go test") {
				t.Errorf("no test in the row: %s", line)
			}
		}
	}
	if rows < 35 {
		t.Errorf("%d rows were found", rows)
	}
}

// testNames are the tests of the module, with the name of their folder.
func testNames(t *testing.T, root string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Abs(filepath.Dir(path))
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil {
				names[filepath.Base(dir)+"."+f.Name.Name] = true
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
