//go:build powercut

package s3_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
)

// TestPowerCut runs the S3 server on a file system of its own, and copies the disk
// beneath it, without what memory still holds, as soon as the last write was
// confirmed. That is what a machine finds after a power cut. On file systems that
// are mounted as docs/backup.md says, everything confirmed must be there; on others
// the test says how much was.
//
// It mounts loop devices, so it needs root on Linux: "make powercut".
func TestPowerCut(t *testing.T) {
	for _, tt := range []struct {
		fs, options string
		survives    bool
	}{
		{"ext4", "sync,dirsync", true},
		{"xfs", "sync,wsync", true},
		{"ext4", "defaults", false},
		{"xfs", "defaults", false},
	} {
		t.Run(tt.fs+" "+tt.options, func(t *testing.T) {
			dir := t.TempDir()
			disk, after := filepath.Join(dir, "disk"), filepath.Join(dir, "after")
			command(t, "truncate", "--size=400M", disk)
			command(t, "mkfs."+tt.fs, "-q", disk)
			stop, cfg := serveOn(t, disk, tt.options, config(t))
			writes := confirmedWrites(t, newStore(t, cfg))
			command(t, "cp", "--sparse=always", disk, after)
			stop()
			_, cfg = serveOn(t, after, tt.options, cfg)
			lost := writes.lost(t, newStore(t, cfg))
			t.Logf("%d confirmed documents, as many tiles, locks and states of the fence: lost are %v", len(writes), lost)
			if tt.survives && len(lost) > 0 {
				t.Errorf("lost: %v", lost)
			}
		})
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// serveOn mounts an image of a disk and runs an S3 server on it.
func serveOn(t *testing.T, disk, options string, cfg s3.Config) (stop func(), _ s3.Config) {
	t.Helper()
	at := disk + ".mounted"
	if err := os.Mkdir(at, 0o700); err != nil {
		t.Fatal(err)
	}
	command(t, "mount", "-o", "loop,"+options, disk, at)
	cmd := exec.Command(env(t, "CALPE_TEST_DEVSTACK"), "s3", "--dir", filepath.Join(at, "s3"))
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		if cmd.Process != nil {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	}
	t.Cleanup(stop)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the server said nothing: %v", err)
	}
	var info struct {
		URL       string `json:"url"`
		AccessKey string `json:"access_key"`
		SecretKey string `json:"secret_key"`
	}
	if err := json.Unmarshal(line, &info); err != nil {
		t.Fatal(err)
	}
	cfg.Endpoint, cfg.AccessKey, cfg.SecretKey = info.URL, info.AccessKey, info.SecretKey
	return stop, cfg
}

// confirmed is one round of writes: a document, its lock, a tile, and the fence.
type confirmed struct {
	object  calpe.Object
	content []byte
	until   time.Time
	path    string
	fence   string
}

type rounds []confirmed

var powerCutKey = [32]byte{1}

func confirmedWrites(t *testing.T, store *s3.Store) (all rounds) {
	t.Helper()
	ctx := t.Context()
	if err := store.CreateBuckets(ctx); err != nil {
		t.Fatal(err)
	}
	etag := ""
	for i := range 40 {
		c := confirmed{content: content(uint64(i), 9000), until: time.Now().Add(time.Hour), path: fmt.Sprintf("tile/0/%03d", i), fence: fmt.Sprintf("fence %d", i)}
		var err error
		c.object, _, err = store.PutDocument(ctx, s3.NewDocumentName(), powerCutKey, bytes.NewReader(c.content), 1<<20)
		if err == nil {
			err = store.RetainDocument(ctx, c.object.Name, c.object.VersionID, c.until, s3.Compliance)
		}
		if err == nil {
			err = store.PutLogObject(ctx, c.path, c.content, "application/octet-stream", "")
		}
		if err == nil {
			etag, err = store.ReplaceFence(ctx, []byte(c.fence), etag)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}

// lost counts what isn't as it was confirmed, by kind.
func (all rounds) lost(t *testing.T, store *s3.Store) map[string]int {
	t.Helper()
	ctx := t.Context()
	lost := map[string]int{}
	for _, c := range all {
		if got, err := readDocument(t, store, c.object); err != nil || !bytes.Equal(got, c.content) {
			lost["documents"]++
		}
		if err := store.DeleteDocument(ctx, c.object.Name); !errors.Is(err, s3.ErrLocked) {
			lost["locks"]++
		}
		if got, err := store.ReadLogObject(ctx, c.path, 1<<20); err != nil || !bytes.Equal(got, c.content) {
			lost["tiles"]++
		}
	}
	if got, _, err := store.ReadFence(ctx); err != nil || string(got) != all[len(all)-1].fence {
		lost["fence"]++
	}
	return lost
}

func readDocument(t *testing.T, store *s3.Store, object calpe.Object) ([]byte, error) {
	t.Helper()
	r, err := store.OpenDocument(t.Context(), object, powerCutKey, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
