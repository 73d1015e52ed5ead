package main

import (
	"crypto/sha256"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

func TestKeygenAndCertify(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := h.path("altea.key")
	vkey := strings.TrimSpace(h.expect(exitOK, []string{"keygen", "altea", "-o", key}).out)
	if info, err := os.Stat(key); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key is %v, %v", info.Mode(), err)
	}
	secret := string(h.read("altea.key"))
	r := h.expect(exitUsage, []string{"keygen", "altea", "-o", key}, "exists")
	if strings.Contains(r.out+r.err, strings.TrimSpace(secret)) || string(h.read("altea.key")) != secret {
		t.Error("the private key is printed, or was replaced")
	}

	file := h.write("birth.pdf", []byte("a birth"))
	certify := []string{"certify", file, "--agency", "altea", "--key", key, "--type", "birth certificate", "--subject", "RC/17", "--issued", "2026-11-20"}
	h.expect(exitOK, append(certify, "--valid-until", "2027-11-20"), "certified by altea+", "birth.pdf.certification.json")
	signed, err := statement.Parse(h.read("birth.pdf.certification.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := statement.Certification{Agency: "altea", Digest: calpe.Digest(sha256.Sum256([]byte("a birth"))), DocumentType: "birth certificate",
		Subject: "RC/17", Issued: "2026-11-20", ValidUntil: "2027-11-20"}
	if diff := cmp.Diff(statement.Body(want), signed.Body()); diff != "" {
		t.Error(diff)
	}
	if err := signed.Verify(vkey); err != nil {
		t.Error(err)
	}
	// The same again is no harm, another one is not written over it.
	h.expect(exitOK, append(certify, "--valid-until", "2027-11-20"))
	h.expect(exitUsage, certify, "is there already")
	h.stdin = "a birth"
	h.expect(exitUsage, append([]string{"certify", "-"}, certify[2:]...), "-o")
	h.expect(exitOK, append([]string{"certify", "-", "-o", h.path("out.json"), "--valid-until", "2027-11-20"}, certify[2:]...))
	if diff := cmp.Diff(string(h.read("birth.pdf.certification.json")), string(h.read("out.json"))); diff != "" {
		t.Error(diff)
	}
}

func TestCertifyRefuses(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := newKey(t, "altea")
	h.write("altea.key", []byte(key.Secret()))
	h.write("broken.key", []byte(key.Secret()[:30]))
	open := h.write("open.key", []byte(key.Secret()))
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	file := h.write("birth.pdf", []byte("a birth"))
	good := map[string]string{"--agency": "altea", "--key": h.path("altea.key"), "--type": "t", "--subject": "s", "--issued": "2026-11-20"}
	for name, tc := range map[string]struct{ flag, value, text string }{
		"another agency's key": {"--agency", "denia", `a key of "altea"`},
		"no such key":          {"--key", h.path("none.key"), "none.key"},
		"broken key":           {"--key", h.path("broken.key"), "not a private key"},
		"readable key":         {"--key", open, "chmod 600"},
		"no type":              {"--type", "", "document_type"},
		"long subject":         {"--subject", strings.Repeat("s", 201), "subject"},
		"control character":    {"--subject", "a\nb", "subject"},
		"no such day":          {"--issued", "2026-02-30", "--issued"},
		"another form of day":  {"--issued", "20.11.2026", "--issued"},
		"ends before it":       {"--valid-until", "2026-11-19", "valid_until"},
		"no such end":          {"--valid-until", "never", "--valid-until"},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"certify", file}
			for flag, value := range good {
				if flag != tc.flag {
					args = append(args, flag, value)
				}
			}
			r := h.expect(exitUsage, append(args, tc.flag, tc.value), tc.text)
			if strings.Contains(r.err, key.Secret()[:30]) {
				t.Error("a part of the key is printed")
			}
		})
	}
	if got := h.files(); got != "altea.key birth.pdf broken.key open.key" {
		t.Errorf("folder holds %q", got)
	}
	h.expect(exitUsage, []string{"keygen", "-o", h.path("x.key"), "Altea"}, "a-z0-9-")
	h.expect(exitUsage, []string{"certify", file}, "--agency")
}
