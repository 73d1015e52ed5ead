package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// refusesToServe starts a server that must end by itself, with a sentence that
// holds all of the words.
func (d *deployment) refusesToServe(name string, extra map[string]string, words ...string) {
	d.t.Helper()
	s := d.serve(porttest.Address(d.t), extra)
	if err := s.ended(d.t.Context()); err != nil {
		d.t.Fatalf("%s: %v\n%s", name, err, tail(s.log, 10))
	}
	text, err := os.ReadFile(s.log)
	if err != nil {
		d.t.Fatal(err)
	}
	_, message, found := strings.Cut("\n"+string(text), "\ncalped: ")
	if code := s.cmd.ProcessState.ExitCode(); code != 1 && code != 2 || !found {
		d.t.Errorf("%s: exit code %d, without a message: %s", name, code, text)
	}
	for _, w := range words {
		if !strings.Contains(message, w) {
			d.t.Errorf("%s: %q isn't in the message: %s", name, w, message)
		}
	}
	if bytes.Contains(text, []byte(d.env["CALPE_S3_SECRET_KEY"])) || bytes.Contains(text, []byte(d.env["CALPE_BITCOIN_PASSWORD"])) {
		d.t.Errorf("%s: a secret is in the log", name)
	}
}

// TestRefusesToStart: a server whose settings, servers or stores can't keep the
// promises doesn't begin to make them, and says why.
func TestRefusesToStart(t *testing.T) {
	d := prepare(t)
	d.refusesToServe("no keys", nil, "calped init")
	d.must("init", "--origin", testOrigin)
	d.refusesToServe("unmigrated database", nil, "calped migrate")
	d.must("migrate")
	d.refusesToServe("no log", nil, "calped log create")
	d.create()
	stopMining := d.node.keepMining(600 * time.Millisecond)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	a := s.takes(newRequestOf(documentKind, 1, 1000))
	s.awaitFinal(a.index + 1)
	stopMining()
	s.exitsCleanly()

	d.refuseSettings()
	d.refuseDatabase()
	d.refuseBuckets()
	d.refuseStores()

	s = d.serve(porttest.Address(t), nil) // all is mended
	s.awaitReady()
	s.takes(newRequestOf(documentKind, 2, 1000))
	s.exitsCleanly()
	d.refuseOlderKeyring()
	d.refuseMissingObject()
}

func (d *deployment) refuseSettings() {
	t := d.t
	t.Helper()
	d.refusesToServe("another network", map[string]string{"CALPE_NETWORK": "simnet"}, "regtest", "simnet")
	d.refusesToServe("a network that isn't one", map[string]string{"CALPE_NETWORK": "moonnet"}, "moonnet")
	var simnet struct {
		URL string `json:"url"`
	}
	dir := filepath.Join(d.dir, "simnet")
	launch(t, "btcd", dir+".log", os.Environ(), &simnet, setting(t, "CALPE_TEST_DEVSTACK"), "bitcoin", "--dir", dir, "--network", "simnet", "--blocks", "0")
	user, host, _ := strings.Cut(strings.TrimPrefix(simnet.URL, "http://"), "@")
	name, password, _ := strings.Cut(user, ":")
	d.refusesToServe("a node of another network", map[string]string{
		"CALPE_BITCOIN_URL": "http://" + host, "CALPE_BITCOIN_USER": name, "CALPE_BITCOIN_PASSWORD": password,
	}, "network", "regtest")
	d.refusesToServe("a wrong password of the node", map[string]string{"CALPE_BITCOIN_PASSWORD": "guess"}, "credentials")
	d.refusesToServe("orphans that may be documents whose last piece comes", map[string]string{
		"CALPE_DOCUMENT_PIECES_TIME": "18h", "CALPE_DOCUMENT_MAX_TIME": "6h", "CALPE_DOCUMENT_ORPHAN_AGE": "24h",
	}, "last piece", "orphans")

	others := filepath.Join(d.dir, "others")
	if _, errs, code := d.calped(map[string]string{"CALPE_KEYS": others}, "init", "--origin", testOrigin); code != 0 {
		t.Fatal(errs)
	}
	d.refusesToServe("keys of another log", map[string]string{"CALPE_KEYS": others}, "checkpoint.key", "not a key of the log")
	key := filepath.Join(d.env["CALPE_KEYS"], "statement.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	d.refusesToServe("a key that others may read", nil, "statement.key", "chmod 600")
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *deployment) refuseDatabase() {
	d.t.Helper()
	d.refusesToServe("no database there", map[string]string{"CALPE_DATABASE_URL": "postgres://nobody@127.0.0.1:1/x"}, "database")
	d.db.stop()
	d.db.quick = true
	d.db.start()
	d.refusesToServe("a database that loses commits", nil, "fsync")
	d.doctorFinds("FAILED  PostgreSQL keeps", "fsync is off", "full_page_writes is off", "ok      bucket")
	d.db.stop()
	d.db.quick = false
	d.db.start()
}

func (d *deployment) refuseBuckets() {
	t := d.t
	t.Helper()
	d.refusesToServe("no such bucket", map[string]string{"CALPE_S3_LOG_BUCKET": "there-is-none"}, "there-is-none")
	d.refusesToServe("wrong secret key", map[string]string{"CALPE_S3_SECRET_KEY": "guess"}, "bucket")
	unique := make([]byte, 6)
	rand.Read(unique)
	plain := "plain-" + hex.EncodeToString(unique)
	client := d.objectStorage()
	if err := client.MakeBucket(t.Context(), plain, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	d.refusesToServe("a bucket without Object Lock", map[string]string{"CALPE_S3_DOCUMENTS_BUCKET": plain}, plain)
	ctx := context.WithoutCancel(t.Context())
	for object := range client.ListObjects(ctx, plain, minio.ListObjectsOptions{Recursive: true}) {
		if err := client.RemoveObject(ctx, plain, object.Key, minio.RemoveObjectOptions{}); err != nil {
			t.Logf("remove %s: %v", object.Key, err)
		}
	}
	if err := client.RemoveBucket(ctx, plain); err != nil {
		t.Logf("remove %s: %v", plain, err)
	}
}

// refuseStores breaks the published log in the ways that a restore or a hand can.
func (d *deployment) refuseStores() {
	t := d.t
	t.Helper()
	head, err := d.rows().CheckpointHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var edge merkle.Tile
	for tile := range merkle.NewTiles(0, head.Size) {
		if tile.Level == 0 {
			edge = tile
		}
	}
	tile := d.readLogObject(edge.Path())

	d.removeLogObject(edge.Path())
	d.refusesToServe("a tile is gone", nil, edge.Path())
	damaged := bytes.Clone(tile)
	damaged[0] ^= 1
	d.writeLogObject(edge.Path(), damaged)
	d.refusesToServe("a tile was changed", nil, "disagree")
	d.removeLogObject(edge.Path())
	d.writeLogObject(edge.Path(), tile)

	// Another history of the same size, signed by the log's own key: two
	// processes of one log that didn't know of each other.
	key := readKey(t, d.env["CALPE_KEYS"], "checkpoint.key")
	path := batch.CheckpointPath(head.Size)
	copied := d.readLogObject(path)
	for _, forged := range []struct {
		name string
		size uint64
	}{{"another root for the same size", head.Size}, {"a longer history that isn't ours", head.Size + 1}} {
		note, err := receipt.SignCheckpoint(key, testOrigin, forged.size, calpe.Hash{1})
		if err != nil {
			t.Fatal(err)
		}
		at := batch.CheckpointPath(forged.size)
		if forged.size == head.Size {
			d.removeLogObject(at)
		}
		d.writeLogObject(at, note)
		if forged.size == head.Size {
			d.refusesToServe(forged.name, nil, "disagree")
		} else {
			d.takesNothing(forged.name, "unavailable", "intake can't go on yet")
		}
		d.removeLogObject(at)
	}
	d.writeLogObject(path, copied)

	d.removeObject(d.env["CALPE_S3_DOCUMENTS_BUCKET"], fenceObject)
	d.takesNothing("the fence is gone", "intake-stopped", "intake is halted")
	d.doctorFinds("FAILED  the fence is not behind the log", "the fence is missing")
	d.restoreFence()
	d.refuseOlderFence()
	d.raiseFence()
}

// refuseOlderKeyring puts the keyring back as it was before its rotation.
func (d *deployment) refuseOlderKeyring() {
	t := d.t
	t.Helper()
	file := filepath.Join(d.env["CALPE_KEYS"], "keyring.json")
	older, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d.must("keyring", "rotate")
	newest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	s.takes(newRequestOf(documentKind, 3, 1000))
	s.exitsCleanly()
	if err := os.WriteFile(file, older, 0o600); err != nil {
		t.Fatal(err)
	}
	d.refusesToServe("an older keyring", nil, "keyring.json isn't the newest")
	d.doctorFinds("FAILED  the newest documents have their objects and keys", "keyring.json isn't the newest")
	if err := os.WriteFile(file, newest, 0o600); err != nil {
		t.Fatal(err)
	}
}

// refuseMissingObject removes the object of the newest document. The operator may
// accept that it is lost.
func (d *deployment) refuseMissingObject() {
	t := d.t
	t.Helper()
	documents, err := d.rows().NewestDocuments(t.Context(), 1)
	if err != nil || len(documents) != 1 {
		t.Fatalf("%d documents, %v", len(documents), err)
	}
	remove := minio.RemoveObjectOptions{VersionID: documents[0].Object.VersionID, GovernanceBypass: true}
	if err := d.objectStorage().RemoveObject(t.Context(), d.env["CALPE_S3_DOCUMENTS_BUCKET"], documents[0].Object.Name, remove); err != nil {
		t.Fatal(err)
	}
	d.refusesToServe("a document without its object", nil, "object storage is behind the database", "CALPE_S3_ALLOW_MISSING")
	s := d.serve(porttest.Address(t), map[string]string{"CALPE_S3_ALLOW_MISSING": "true"})
	s.awaitReady()
	s.exitsCleanly()
}

// doctorFinds runs calped doctor, which must fail and say all of that.
func (d *deployment) doctorFinds(words ...string) {
	d.t.Helper()
	findings, errs, code := d.calped(nil, "doctor")
	for _, w := range words {
		if code != 1 || !strings.Contains(findings, w) {
			d.t.Errorf("doctor: exit code %d, %q isn't among what it found:\n%s%s", code, w, findings, errs)
		}
	}
}

// refuseOlderFence puts a fence back that the log has left behind.
func (d *deployment) refuseOlderFence() {
	t := d.t
	t.Helper()
	newest, etag, err := d.store().ReadFence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fence, err := intake.ParseFence(newest)
	if err != nil {
		t.Fatal(err)
	}
	fence.Limit = 1
	older, err := json.Marshal(fence)
	if err != nil {
		t.Fatal(err)
	}
	if etag, err = d.store().ReplaceFence(t.Context(), older, etag); err != nil {
		t.Fatal(err)
	}
	d.takesNothing("the fence is an older one", "intake-stopped", "the fence is older than the log")
	d.doctorFinds("FAILED  the fence is not behind the log", "the fence is older than the log", "put the newest state of object storage back")
	if _, err = d.store().ReplaceFence(t.Context(), newest, etag); err != nil {
		t.Fatal(err)
	}
}

func (d *deployment) raiseFence() {
	t := d.t
	t.Helper()
	was := d.fenceLimit()
	d.must("log", "raise-fence", "--to", fmt.Sprint(was+10))
	if is := d.fenceLimit(); is != was+10 {
		t.Errorf("the fence was raised from %d to %d, want 10 more", was, is)
	}
	if _, errs, code := d.calped(nil, "log", "raise-fence", "--to", fmt.Sprint(was+10)); code != 1 || !strings.Contains(errs, "nothing was done") {
		t.Errorf("raised to where it is: exit code %d\n%s", code, errs)
	}
}

// restoreFence brings the fence back that is deleted, and makes a new one when
// nothing is left of it.
func (d *deployment) restoreFence() {
	t := d.t
	t.Helper()
	takes := func() {
		t.Helper()
		s := d.serve(porttest.Address(t), nil)
		s.awaitReady()
		s.kill()
	}
	refused := func(want string) {
		t.Helper()
		if _, errs, code := d.calped(nil, "log", "restore-fence"); code != 1 || !strings.Contains(errs, want) {
			t.Errorf("restore-fence: exit code %d\n%s\nwant %q", code, errs, want)
		}
	}
	d.must("log", "restore-fence")
	takes()
	refused("the fence is there")
	bucket, storage := d.env["CALPE_S3_DOCUMENTS_BUCKET"], d.objectStorage()
	for v := range storage.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Prefix: fenceObject, WithVersions: true}) {
		if err := errors.Join(v.Err, storage.RemoveObject(t.Context(), bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID})); err != nil {
			t.Fatal(err)
		}
	}
	refused("no version of the fence is left")
	d.must("log", "restore-fence", "--create")
	takes()
}

// readKey reads one of the service's signing keys.
func readKey(t testing.TB, dir, name string) statement.Key {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// verifierOf is the public part of such a key, as an identity lists it.
func verifierOf(t testing.TB, dir, name string) []string {
	t.Helper()
	return []string{readKey(t, dir, name).Verifier()}
}

// fenceObject is where intake keeps the limit of its promises.
const fenceObject = "control/fence"

// takesNothing: the server starts, so that what is there can be read, but takes
// no entry, and its log says why.
func (d *deployment) takesNothing(name, code, logged string) {
	t := d.t
	t.Helper()
	s := d.serve(porttest.Address(t), nil)
	eventually(t, name, func(context.Context) error {
		text, err := os.ReadFile(s.log)
		if err == nil && !bytes.Contains(text, []byte(logged)) {
			err = fmt.Errorf("%q isn't in the log:\n%s", logged, tail(s.log, 10))
		}
		return err
	})
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"intake": "down", "postgres": "ok"})
	request, _, err := d.newRequest(t.Context(), s.url, newRequestOf(stampKind, 99, 0))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+d.token)
	status, _, p := d.problem(request)
	if status != http.StatusServiceUnavailable || p.Code != code {
		t.Errorf("%s: an entry was answered with %d %s, want %s", name, status, p.Code, code)
	}
	s.kill()
}

func (d *deployment) readLogObject(path string) []byte {
	d.t.Helper()
	return d.readObject(d.env["CALPE_S3_LOG_BUCKET"], path)
}

func (d *deployment) writeLogObject(path string, data []byte) {
	d.t.Helper()
	d.writeObject(d.env["CALPE_S3_LOG_BUCKET"], path, data)
}

func (d *deployment) removeLogObject(path string) {
	d.t.Helper()
	d.removeObject(d.env["CALPE_S3_LOG_BUCKET"], path)
}

func (d *deployment) readObject(bucket, path string) []byte {
	d.t.Helper()
	object, err := d.objectStorage().GetObject(d.t.Context(), bucket, path, minio.GetObjectOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	defer object.Close()
	data, err := io.ReadAll(object)
	if err != nil {
		d.t.Fatalf("read %s: %v", path, err)
	}
	return data
}

func (d *deployment) writeObject(bucket, path string, data []byte) {
	d.t.Helper()
	_, err := d.objectStorage().PutObject(d.t.Context(), bucket, path, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{})
	if err != nil {
		d.t.Fatalf("write %s: %v", path, err)
	}
}

func (d *deployment) removeObject(bucket, path string) {
	d.t.Helper()
	if err := d.objectStorage().RemoveObject(d.t.Context(), bucket, path, minio.RemoveObjectOptions{}); err != nil {
		d.t.Fatalf("remove %s: %v", path, err)
	}
}
