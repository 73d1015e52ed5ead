package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/tools/toolstest"
	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

func config(t *testing.T, dir string) Config {
	t.Helper()
	binary, err := toolstest.Builder(t, "../..").Versitygw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return Config{Dir: dir, Binary: binary}
}

func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func client(t *testing.T, info Info, secret string) *minio.Client {
	t.Helper()
	u, err := url.Parse(info.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(info.AccessKey, secret, ""), Region: info.Region, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(ctx context.Context, c *minio.Client, key, text string, opts minio.PutObjectOptions) (minio.UploadInfo, error) {
	return c.PutObject(ctx, "docs", key, strings.NewReader(text), int64(len(text)), opts)
}

// TestProduct checks what Calpe relies on, with metadata in attributes and in
// files beside: create-only PUT, wrong checksum refused, Object Lock, and that
// all this outlives the server.
func TestProduct(t *testing.T) {
	for _, metadata := range []string{"xattr", "sidecar"} {
		t.Run(metadata, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "metadata"), []byte(metadata), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := config(t, dir)
			s := run(t, cfg)
			if s.Info.Sidecar != (metadata == "sidecar") {
				t.Errorf("sidecar = %v", s.Info.Sidecar)
			}
			c := client(t, s.Info, s.Info.SecretKey)
			if err := c.MakeBucket(t.Context(), "docs", minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
				t.Fatal(err)
			}
			create := minio.PutObjectOptions{}
			create.SetMatchETagExcept("*")
			if _, err := put(t.Context(), c, "a", "first", create); err != nil {
				t.Fatal(err)
			}
			if _, err := put(t.Context(), c, "a", "second", create); minio.ToErrorResponse(err).StatusCode != http.StatusPreconditionFailed {
				t.Errorf("create-only PUT of an object that exists: %v", err)
			}
			wrong := minio.PutObjectOptions{UserMetadata: map[string]string{"X-Amz-Checksum-Sha256": strings.Repeat("A", 43) + "="}}
			if _, err := put(t.Context(), c, "b", "text", wrong); minio.ToErrorResponse(err).StatusCode != http.StatusBadRequest {
				t.Errorf("wrong checksum: %v", err)
			}
			lock := minio.PutObjectOptions{Mode: minio.Compliance, RetainUntilDate: time.Now().Add(time.Hour)}
			locked, err := put(t.Context(), c, "locked", "for ever", lock)
			if err != nil {
				t.Fatal(err)
			}
			s.Stop()

			again := run(t, cfg)
			if diff := cmp.Diff([]string{s.Info.AccessKey, s.Info.SecretKey}, []string{again.Info.AccessKey, again.Info.SecretKey}); diff != "" {
				t.Errorf("keys changed: %s", diff)
			}
			c = client(t, again.Info, again.Info.SecretKey)
			object, err := c.GetObject(t.Context(), "docs", "a", minio.GetObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(object); err != nil || !bytes.Equal(text, []byte("first")) {
				t.Errorf("after restart: %q, %v", text, err)
			}
			remove := minio.RemoveObjectOptions{VersionID: locked.VersionID, GovernanceBypass: true}
			if err := c.RemoveObject(t.Context(), "docs", "locked", remove); err == nil {
				t.Error("a locked version was deleted")
			}
		})
	}
}

func TestKeysAreNeeded(t *testing.T) {
	cfg := config(t, t.TempDir())
	cfg.AccessKey, cfg.Secret = "mine", "topsecret"
	s := run(t, cfg)
	if s.Info.AccessKey != "mine" || s.Info.SecretKey != "topsecret" {
		t.Errorf("keys are not those asked for: %+v", s.Info)
	}
	if _, err := client(t, s.Info, "topsecret").ListBuckets(t.Context()); err != nil {
		t.Errorf("right key: %v", err)
	}
	if _, err := client(t, s.Info, "wrong").ListBuckets(t.Context()); err == nil {
		t.Error("wrong key was let in")
	}
	// Only Linux shows arguments in this file, and there it must exist.
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.Info.PID))
	if err != nil && runtime.GOOS == "linux" {
		t.Fatal(err)
	}
	if bytes.Contains(args, []byte("topsecret")) {
		t.Error("secret key is an argument, which anybody can read")
	}
}

func TestHealth(t *testing.T) {
	s := run(t, config(t, t.TempDir()))
	res, err := http.Get(s.Info.URL + "/health")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("/health answers %d", res.StatusCode)
	}
}

func TestDeathIsReported(t *testing.T) {
	cfg := config(t, t.TempDir())
	s := run(t, cfg)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, process.ErrLocked) {
		t.Errorf("second server on the folder: %v", err)
	}
	syscall.Kill(s.Info.PID, syscall.SIGKILL)
	<-s.Done()
	if err := s.Failure(); !errors.Is(err, process.ErrEnded) || !strings.Contains(err.Error(), "versitygw") {
		t.Errorf("failure = %v", err)
	}
}

func TestBadFolder(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "credentials.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), config(t, dir)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("err = %v, want one that names %s", err, path)
	}
	cfg := config(t, t.TempDir())
	cfg.Binary = "/nonexistent"
	if _, err := Start(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no program: %v", err)
	}
}
