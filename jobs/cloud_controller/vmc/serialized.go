package vmc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/clusterworks/deploy/jobs/cloud_controller/client"
)

func exportServiceCommand(v *vmc) *cobra.Command {
	var snapshot string
	var force bool
	c := v.command(&cobra.Command{
		Use:   "export-service SERVICE FILE",
		Short: "Write all that is in a service to a file",
		Long: `export-service writes what is in a service now, or what was in it at a snapshot, to a
file that import-service reads. The file begins with a line that says what it is, and has
its checksum. Whoever has the file has the data: it is not encrypted.`,
		Example: "  vmc export-service db db.export\n  vmc export-service db db.export --snapshot 3-1f09ab7c",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) (err error) {
		service, path := client.DataOf(c, args[0]), args[1]
		if _, err := os.Lstat(path); !force && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already: use another name, or --force", path)
		}
		id := snapshot
		if id == "" {
			j, err := service.CreateSnapshot(ctx, "export")
			if err == nil {
				j, err = waitJob(ctx, v, service, j, "Making a snapshot of "+args[0])
			}
			if err != nil {
				return err
			}
			id = j.SnapshotID
			defer func() { err = errors.Join(err, dropSnapshot(ctx, v, service, id)) }()
		}
		j, err := service.CreateExport(ctx, id)
		if err == nil {
			_, err = waitJob(ctx, v, service, j, fmt.Sprintf("Making a file of the snapshot %s", id))
		}
		if err != nil {
			return err
		}
		head, err := download(ctx, service, id, path)
		if err != nil {
			return err
		}
		if v.json {
			return v.printJSON(head)
		}
		v.say("%s: %s of %s %s, sha256 %s", path, size(head.Size), head.Service, head.Version, head.SHA256)
		return nil
	})
	c.Flags().StringVar(&snapshot, "snapshot", "", "ID of the snapshot to export; without it, one is made and deleted again")
	c.Flags().BoolVarP(&force, "force", "f", false, "replace FILE if it is there")
	return c
}

// dropSnapshot deletes a snapshot that was made for an export only.
func dropSnapshot(ctx context.Context, v *vmc, service client.ServiceData, id string) error {
	j, err := service.DeleteSnapshot(ctx, id)
	if err == nil {
		_, err = waitJob(ctx, v, service, j, "Deleting the snapshot "+id)
	}
	if err != nil {
		return fmt.Errorf("the snapshot %s, made for the export, is left: %w", id, err)
	}
	return nil
}

// download writes an export to a file, which is there only when all of it is right.
func download(ctx context.Context, service client.ServiceData, id, path string) (head client.ExportHead, err error) {
	from, err := service.ExportURL(ctx, id)
	if err != nil {
		return head, err
	}
	in, err := service.ReadExport(ctx, from)
	if err != nil {
		return head, err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(path), ".vmc-export-*")
	if err != nil {
		return head, fmt.Errorf("cannot make %s: %w", path, err)
	}
	defer os.Remove(out.Name()) // nothing is left of it after success
	defer out.Close()
	if head, err = checkedCopy(out, in); err != nil {
		return head, err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return head, fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return head, fmt.Errorf("cannot write %s: %w", path, err)
	}
	return head, nil
}

// checkedCopy copies an export and fails unless it is what its first line says.
func checkedCopy(to io.Writer, from io.Reader) (client.ExportHead, error) {
	in := bufio.NewReaderSize(from, 64<<10)
	line, err := in.ReadSlice('\n')
	if err != nil {
		return client.ExportHead{}, fmt.Errorf("cannot read the first line of the export: %w", err)
	}
	head, err := client.ParseExportHead(line)
	if err != nil {
		return head, err
	}
	if _, err := to.Write(line); err != nil {
		return head, fmt.Errorf("cannot write the export: %w", err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(to, sum), in)
	switch {
	case err != nil:
		return head, fmt.Errorf("cannot copy the export: %w", err)
	case n != head.Size:
		return head, fmt.Errorf("the export is cut off: it has %d of %d bytes; try again", n, head.Size)
	case hex.EncodeToString(sum.Sum(nil)) != head.SHA256:
		return head, errors.New("the export is damaged: its checksum is not that of its first line; try again")
	}
	return head, nil
}

func importServiceCommand(v *vmc) *cobra.Command {
	var force bool
	c := v.command(&cobra.Command{
		Use:   "import-service SERVICE FILE",
		Short: "Replace all that is in a service by a file",
		Long: `import-service replaces everything that is in a service by a file of export-service, or
by a dump of the service's own tool: mariadb-dump, pg_dump --format=custom, or the commands
of Redis as redis-cli --pipe reads them. Apps are kept out while that lasts; users and
passwords stay. What the service's own users may not do is refused, and nothing changes.`,
		Example: "  vmc import-service db db.export\n  mariadb-dump shop > shop.sql && vmc import-service db shop.sql",
		Args:    cobra.ExactArgs(2),
	}, func(ctx context.Context, c *client.Client, args []string) error {
		in, err := os.Open(args[1])
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", args[1], err)
		}
		defer in.Close()
		body, length, err := importBody(ctx, c, args[0], in)
		if err != nil {
			return fmt.Errorf("cannot import %s: %w", args[1], err)
		}
		if err := v.confirm(force, "Replace all that is in %s by %s?", args[0], args[1]); err != nil {
			return err
		}
		v.say("Sending %s of %s", size(length), args[1])
		j, err := client.DataOf(c, args[0]).Import(ctx, body)
		if err != nil {
			return err
		}
		return tellJob(ctx, v, client.DataOf(c, args[0]), j, fmt.Sprintf("Importing %s into %s", args[1], args[0]))
	})
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

// firstLine bounds the first line of a file, in bytes.
const firstLine = 1024

// importBody returns a file as it is sent: with a first line that says what it is, which a
// dump of the service's own tool gets here. A file of export-service is checked first.
func importBody(ctx context.Context, c *client.Client, service string, in *os.File) (body func() (io.Reader, int64), length int64, err error) {
	info, err := in.Stat()
	if err != nil {
		return nil, 0, err
	}
	length = info.Size()
	begin := make([]byte, firstLine)
	n, err := in.ReadAt(begin, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	whole := func() io.Reader { return io.NewSectionReader(in, 0, info.Size()) }
	if line, _, is := bytes.Cut(begin[:n], []byte("\n")); is && bytes.HasPrefix(line, []byte("{")) {
		if _, err := checkedCopy(io.Discard, whole()); err != nil {
			return nil, 0, err
		}
		return func() (io.Reader, int64) { return whole(), length }, length, nil
	}
	vendor, err := vendorOf(ctx, c, service)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, whole()); err != nil {
		return nil, 0, err
	}
	line, err := client.ExportHead{Service: vendor, Size: info.Size(), SHA256: hex.EncodeToString(sum.Sum(nil))}.Line()
	if err != nil {
		return nil, 0, err
	}
	length += int64(len(line))
	return func() (io.Reader, int64) { return io.MultiReader(bytes.NewReader(line), whole()), length }, length, nil
}

// vendorOf returns which service one of the user's is.
func vendorOf(ctx context.Context, c *client.Client, name string) (string, error) {
	list, err := c.Services(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range list {
		if s.Name == name {
			return s.Vendor, nil
		}
	}
	return "", fmt.Errorf("there is no service %q; vmc services lists yours", name)
}
