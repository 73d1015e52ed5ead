package calpe_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/calpe/calpe"

// mayImport is the direction of imports (docs/design/README.md): for each
// package, the packages of this module that its production code may import.
// A trailing "/..." allows a whole subtree. A package that isn't here fails the
// test, so that a new one gets its place on purpose.
var mayImport = map[string][]string{
	"":                     {},
	"merkle":               {""},
	"internal/commitpoint": {},
	"internal/buildinfo":   {},
	"internal/chainparams": {""},
	"internal/progress":    {},
	"migrations":           {},

	"receipt/headers":   {"", "internal/chainparams"},
	"receipt/statement": {""},
	"receipt":           {"", "merkle", "receipt/headers", "receipt/statement"},
	"receipt/ots":       {"", "merkle", "receipt", "receipt/headers"},

	"anchor/ledger":   {""},
	"anchor/bitcoin":  {"", "anchor/ledger", "internal/chainparams"},
	"anchor/calendar": {"", "receipt/ots"},
	"anchor/wallet":   {"", "anchor/ledger"},
	"anchor/signer":   {"", "anchor/ledger", "anchor/wallet", "merkle"},
	"anchor/stamp":    {"", "anchor/ledger", "anchor/calendar", "receipt", "receipt/...", "internal/commitpoint"},
	"anchor":          {"", "anchor/ledger", "anchor/wallet", "anchor/bitcoin", "merkle", "receipt", "internal/chainparams", "internal/commitpoint"},

	"storage/keyring":  {""},
	"storage/postgres": {"", "anchor/ledger", "migrations", "internal/commitpoint"},
	"storage/s3":       {"", "internal/commitpoint"},

	"intake": {"", "merkle", "receipt", "receipt/...", "internal/commitpoint", "storage/keyring"},
	"audit":  {"", "merkle", "receipt", "receipt/headers", "receipt/statement"},
	"batch":  {"", "merkle", "receipt", "receipt/...", "internal/commitpoint"},
	"metrics": {
		"", "intake", "anchor", "anchor/...", "api", "storage/postgres", "storage/s3",
	},
	"api":  {"", "intake", "batch", "anchor", "anchor/ledger", "merkle", "receipt", "receipt/..."},
	"fsck": {"", "merkle", "receipt", "receipt/...", "anchor/ledger", "anchor/wallet", "anchor/bitcoin", "batch", "intake", "storage/keyring"},

	// The citizen's tool: what it may not reach, directly or not, is below.
	"cmd/calpe":  {"", "merkle", "receipt", "receipt/...", "anchor/bitcoin", "anchor/calendar", "audit", "internal/buildinfo", "internal/progress"},
	"cmd/calped": {"..."},
}

// neverIn lists what a program must not contain at all, through any import.
var neverIn = map[string][]string{
	"cmd/calpe": {
		"github.com/jackc/", "github.com/minio/", "database/sql", module + "/storage",
		module + "/migrations", module + "/intake", module + "/batch", "github.com/btcsuite/btcd/database",
	},
	"receipt":     noServices,
	"receipt/ots": noServices,
	"audit":       noServices,
}

// noServices is for what others import to check evidence: nothing in it can
// reach a database, object storage, a node or anything else.
var noServices = []string{
	"net/http", "os/exec", "github.com/jackc/", "github.com/minio/", "database/sql", "github.com/btcsuite/btcd/rpcclient",
	module + "/storage", module + "/anchor", module + "/intake", module + "/batch", module + "/api",
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", "./...")
	out, err := cmd.Output()
	if err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Fatalf("go list: %v\n%s", err, e.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

func local(path string) (string, bool) {
	if path == module {
		return "", true
	}
	return strings.CutPrefix(path, module+"/")
}

func allowed(pkg string, rules []string) bool {
	return slices.ContainsFunc(rules, func(rule string) bool {
		tree, isTree := strings.CutSuffix(rule, "...")
		return rule == pkg || isTree && strings.HasPrefix(pkg, tree)
	})
}

// Imports point one way, or the packages become one big one.
func TestImportDirection(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range listPackages(t) {
		name, ok := local(p.ImportPath)
		if !ok || strings.HasPrefix(name, "integration") || strings.HasSuffix(name, "test") {
			continue // code of tests, which no rule below lets in
		}
		rules, ok := mayImport[name]
		if !ok {
			t.Errorf("package %q has no place in the import table of this test", name)
			continue
		}
		seen[name] = true
		for _, imp := range p.Imports {
			if target, ok := local(imp); ok && !allowed(target, rules) {
				t.Errorf("%q imports %q, which its place in the design doesn't allow", name, target)
			}
		}
		for _, bad := range neverIn[name] {
			if i := slices.IndexFunc(p.Deps, func(dep string) bool {
				return dep == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(dep, bad) ||
					strings.HasPrefix(dep, bad+"/")
			}); i >= 0 {
				t.Errorf("%q contains %q, which must not be in it", name, p.Deps[i])
			}
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("the import table lists %q, which doesn't exist", name)
		}
	}
}
