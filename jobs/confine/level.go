package confine

// Levels of isolation, the weakest first.
const (
	// LevelProcesses: resource limits, no new privileges, and everything that a
	// program has started ends with it. Memory is measured, not bounded. What keeps
	// programs from each other's files is Landlock alone, where the kernel has it.
	LevelProcesses = "processes"
	// LevelNamespaces: a program sees its own processes and its own files only, and
	// cannot leave anything behind.
	LevelNamespaces = "namespaces"
	// LevelFull: namespaces, a user for each program, and the kernel bounds memory,
	// processes and processor by control groups.
	LevelFull = "full"
)

// LevelSafe is the level that programs of users who do not trust each other need at least.
const LevelSafe = LevelNamespaces

// Levels returns all levels in their order.
func Levels() []string { return []string{LevelProcesses, LevelNamespaces, LevelFull} }
