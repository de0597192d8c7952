package confine

import "github.com/clusterworks/deploy/jobs/confine/network"

// Spec describes what a confined process is, and what it has of the machine.
type Spec struct {
	Command []string `json:"command"`
	Env     []string `json:"env"` // all of it
	// Dir is the task's folder, Home where the process sees it: Dir itself unless it
	// has namespaces.
	Dir    string `json:"dir"`
	Home   string `json:"home"`
	Limits Limits `json:"limits"`
	// Namespaces says that the process has namespaces and a file system of its own,
	// of which it sees Dir and, read only, what is in Visible.
	Namespaces bool     `json:"namespaces"`
	Visible    []string `json:"visible"`
	// Mounts are more of it, by where the process sees it; without namespaces that
	// is where it is.
	Mounts map[string]string `json:"mounts,omitempty"`
	// Ports are the TCP ports below those that the kernel chooses on which the
	// process may listen.
	Ports []int `json:"ports,omitempty"`
	// Network is the process's own network; nil: it has the machine's.
	Network *network.Policy `json:"network,omitempty"`
	// UID and GID are whom the process runs as; 0: who its parent is.
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Umask is the process's; 0: 077.
	Umask int `json:"umask,omitempty"`
	// Cgroups are folders of control groups that the process joins.
	Cgroups []string `json:"cgroups"`
}

// Limits bound a process and all that it starts.
type Limits struct {
	MemoryBytes int64 `json:"memory_bytes"`
	DiskBytes   int64 `json:"disk_bytes"`
	OpenFiles   int   `json:"open_files"`
	Processes   int   `json:"processes"` // threads count
}
