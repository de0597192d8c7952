package stager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/agent/host/unpack"
	"github.com/clusterworks/deploy/jobs/confine"
	"github.com/clusterworks/deploy/jobs/runtimes"
	"github.com/clusterworks/deploy/jobs/stager/internal/archive"
	"github.com/clusterworks/deploy/jobs/stager/internal/plugins"
	"github.com/clusterworks/deploy/jobs/wire"
)

// logLimit bounds the log that is sent over the bus, which takes messages of 1 MiB;
// its end is what matters.
const logLimit = 256 << 10

// errTimeout says that a staging took too long.
type errTimeout struct{ after time.Duration }

func (e errTimeout) Error() string {
	return fmt.Sprintf("Staging timed out after %s seconds.", strconv.FormatFloat(e.after.Seconds(), 'f', -1, 64))
}

// task is the staging of one app.
type task struct {
	stager  *Stager
	id      string
	request wire.StagingRequest
	log     bytes.Buffer // for the app's owner
}

func (t *task) say(format string, args ...any) { fmt.Fprintf(&t.log, format+"\n", args...) }

// run stages the app. What it returns is for the app's owner.
func (t *task) run(ctx context.Context, place int) (err error) {
	work, err := t.stager.folder.newTask(t.id)
	if err != nil {
		return t.failure(ctx, "Failed creating a workspace", err)
	}
	defer func() {
		if removeErr := confine.RemoveAll(work); removeErr != nil {
			t.stager.base.Log().Warn("cannot remove a workspace", "folder", work, "error", removeErr)
		}
	}()
	zip, files, droplet := filepath.Join(work, "app.zip"), filepath.Join(work, filesFolder), filepath.Join(work, "droplet.tgz")
	unstaged, staged := filepath.Join(files, unstagedDir), filepath.Join(files, stagedDir)
	if err := errors.Join(os.Mkdir(files, 0o700), os.Mkdir(unstaged, 0o755)); err != nil {
		return t.failure(ctx, "Failed creating a workspace", err)
	}
	info, found, err := t.findRuntime(ctx)
	if err != nil {
		return t.failure(ctx, "Staging plugin failed", err)
	}
	if found.Path != "" {
		t.say("Runtime %s: %s (%s)", info.Name, found.Path, found.Output)
	}

	spec, err := t.confinement(work, place)
	if err != nil {
		return t.failure(ctx, "Staging plugin failed", err)
	}

	size, err := download(ctx, t.stager.client, t.uri(t.request.DownloadURI, t.request.SecureDownloadURI), zip, t.stager.config.MaxAppMB<<20)
	if err != nil {
		return t.failure(ctx, "Failed downloading app", err)
	}
	t.say("Downloaded the app, %s", bytesText(size))
	limits := unpack.Options{Bytes: t.stager.config.MaxDropletMB << 20, Public: true, UID: spec.UID, GID: spec.GID}
	if err := unpack.Zip(ctx, zip, unstaged, limits); err != nil {
		return t.failure(ctx, "Failed unpacking app", err)
	}
	if err := os.Remove(zip); err != nil {
		return t.failure(ctx, "Failed unpacking app", err)
	}

	t.say("Staging with framework %s", t.request.Properties.Framework)
	if found.Path != "" {
		found.Path = filepath.Join(give(&spec, "runtime", filepath.Dir(found.Path)), filepath.Base(found.Path))
	}
	cfg := plugins.Config{
		RuntimePath:       found.Path,
		SourceDir:         filepath.Join(spec.Home, unstagedDir),
		DestDir:           filepath.Join(spec.Home, stagedDir),
		Environment:       t.request.Properties,
		StaticServer:      give(&spec, "static_server", t.stager.folder.staticServer),
		Tomcat:            give(&spec, "tomcat", t.stager.config.Tomcat),
		FetchDependencies: t.stager.config.FetchDependencies,
	}
	err = t.runPlugin(ctx, work, spec, cfg)
	// It may have put anything in the place of its folder.
	root, openErr := openFolder(files, stagedDir)
	if openErr == nil {
		defer root.Close()
		t.log.WriteString(readEnd(root, filepath.Join("logs", "staging.log"), logLimit))
		if b := t.log.Bytes(); len(b) > 0 && b[len(b)-1] != '\n' {
			t.log.WriteByte('\n')
		}
	}
	err = errors.Join(err, openErr)
	if err != nil {
		return t.failure(ctx, "Staging plugin failed", err)
	}

	if err := pack(ctx, droplet, staged, t.stager.config.MaxDropletMB<<20); err != nil {
		return t.failure(ctx, "Failed creating droplet", err)
	}
	packed, err := os.Stat(droplet)
	if err != nil {
		return t.failure(ctx, "Failed creating droplet", err)
	}
	if err := upload(ctx, t.stager.client, t.uri(t.request.UploadURI, t.request.SecureUploadURI), droplet); err != nil {
		return t.failure(ctx, "Failed uploading droplet", err)
	}
	t.say("Uploaded the droplet, %s", bytesText(packed.Size()))
	return nil
}

// uri returns the secure one of two where both sides can use it.
func (t *task) uri(plain, secure string) string {
	if secure != "" && t.stager.config.Secure() {
		return secure
	}
	return plain
}

// failure is an error in the original's words; that the time is over, or the
// stager ends, is the reason for whatever else went wrong then.
func (t *task) failure(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		err := context.Cause(ctx)
		t.say("%v", err)
		return err
	}
	err = fmt.Errorf("%s: %w", what, err)
	t.say("%v", err)
	return err
}

// findRuntime finds the app's runtime on this machine: as the request describes
// it, or by its name.
func (t *task) findRuntime(ctx context.Context) (wire.RuntimeInfo, runtimes.Runtime, error) {
	p := t.request.Properties
	info := p.RuntimeInfo
	if info.Executable == "" && info.VersionOutput == "" {
		known, ok := runtimes.Named(p.Runtime)
		switch {
		case ok:
			info = known
		case p.Runtime != "" && info.Name == "":
			return info, runtimes.Runtime{}, fmt.Errorf("the request names the runtime %s without a description, and it is none of the usual ones", p.Runtime)
		}
	}
	if info.Name == "" {
		info.Name = p.Runtime
	}
	found, err := t.stager.runtimes.Find(ctx, info)
	return info, found, err
}

// openFolder opens a folder in dir; a link is none.
func openFolder(dir, name string) (*os.Root, error) {
	info, err := os.Lstat(filepath.Join(dir, name))
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is no longer a folder", name)
	}
	if err != nil {
		return nil, err
	}
	return os.OpenRoot(filepath.Join(dir, name))
}

func pack(ctx context.Context, file, folder string, limit int64) (err error) {
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return archive.Pack(ctx, out, folder, limit)
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MB", float64(n)/(1<<20))
}
