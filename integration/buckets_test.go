package integration

import (
	"context"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// objectStorage is a client of the S3 server beside the product's.
func (d *deployment) objectStorage() *minio.Client {
	d.t.Helper()
	u, err := url.Parse(d.env["CALPE_S3_ENDPOINT"])
	if err != nil {
		d.t.Fatal(err)
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(d.env["CALPE_S3_ACCESS_KEY"], d.env["CALPE_S3_SECRET_KEY"], ""), Region: "us-east-1",
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return client
}

// documentObjects are the names of all objects that hold documents.
func (d *deployment) documentObjects() map[string]bool {
	d.t.Helper()
	names := map[string]bool{}
	options := minio.ListObjectsOptions{Prefix: "documents/", Recursive: true}
	for object := range d.objectStorage().ListObjects(d.t.Context(), d.env["CALPE_S3_DOCUMENTS_BUCKET"], options) {
		if object.Err != nil {
			d.t.Fatal(object.Err)
		}
		names[object.Key] = true
	}
	return names
}

// isLocked reports whether an object is under Object Lock now.
func (d *deployment) isLocked(name string) bool {
	d.t.Helper()
	info, err := d.objectStorage().StatObject(d.t.Context(), d.env["CALPE_S3_DOCUMENTS_BUCKET"], name, minio.StatObjectOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	return err == nil && until.After(time.Now())
}

// unfinishedUploads counts multipart uploads that were neither completed nor aborted.
func (d *deployment) unfinishedUploads() (n int) {
	d.t.Helper()
	for upload := range d.objectStorage().ListIncompleteUploads(d.t.Context(), d.env["CALPE_S3_DOCUMENTS_BUCKET"], "", true) {
		if upload.Err != nil {
			d.t.Fatal(upload.Err)
		}
		n++
	}
	return n
}

// removeBuckets gives the space back. The server itself is a throw-away one, so
// what can't be removed is no failure: the documents' bucket keeps the probes of
// the servers' self-tests, which are under a lock that nobody may lift.
func (d *deployment) removeBuckets() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.t.Context()), time.Minute)
	defer cancel()
	client := d.objectStorage()
	for bucket, prefix := range map[string]string{
		d.env["CALPE_S3_DOCUMENTS_BUCKET"]: "documents/",
		d.env["CALPE_S3_LOG_BUCKET"]:       "",
	} {
		options := minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}
		for object := range client.ListObjects(ctx, bucket, options) {
			if object.Err != nil {
				d.t.Logf("list %s: %v", bucket, object.Err)
				break
			}
			remove := minio.RemoveObjectOptions{VersionID: object.VersionID, GovernanceBypass: true}
			if err := client.RemoveObject(ctx, bucket, object.Key, remove); err != nil {
				d.t.Logf("remove %s: %v", object.Key, err)
			}
		}
	}
	if err := client.RemoveBucket(ctx, d.env["CALPE_S3_LOG_BUCKET"]); err != nil {
		d.t.Logf("remove the log's bucket: %v", err)
	}
}
