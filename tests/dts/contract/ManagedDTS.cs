// The documented contract of Microsoft.SqlServer.ManagedDTS for running packages, for tests.
//
// Written from the API reference of Microsoft.SqlServer.Dts.Runtime (Application, RunningPackages,
// RunningPackagesEnumerator, RunningPackage, DtsException) and from nothing else. What the real assembly does beyond
// its documentation was never seen here: the unit of ExecutionDuration, the Kind of ExecutionStartTime, real HRESULTs.
//
// What "runs" is told by files in the folder that the environment variable SSIS_TEST_ESTATE names:
//   packages.tsv   a line a package: instance id, package id, name, description, user, start ticks, duration, pid
//                  (pid 0: no process behind it; otherwise it runs while /proc/PID is there and is no zombie;
//                  in texts \n, \t and \d800, which no file in UTF-8 can hold: half a surrogate pair)
//   faults.txt     a line a fault: MEMBER ACTION [ARGUMENT]
//                  MEMBER: ctor list enumerate count stop stopped, or the name of a property
//                  (stop is before the request went out, stopped after it)
//                  ACTION: utc (of a time) | delay SECONDS | null | throw HRESULT | dtsthrow HRESULT | denied | notfound | crash | junk
//   MEMBER.hangs   is written when a delay begins
//   stops.log      each Stop writes the instance id here
using System;
using System.Collections;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Runtime.InteropServices;
using System.Threading;

namespace Microsoft.SqlServer.Dts.Runtime
{
    public class DtsException : Exception
    {
        public DtsException(string message, int code) : base(message) { HResult = code; ErrorCode = code; }
        public int ErrorCode { get; private set; }
    }

    public class DtsRuntimeException : DtsException
    {
        public DtsRuntimeException(string message, int code) : base(message, code) { }
    }

    public class DtsObject { }

    public abstract class DtsReadOnlyCollectionBase : ICollection
    {
        internal readonly List<RunningPackage> Items = new List<RunningPackage>();
        public int Count { get { Estate.Fault("count"); return Items.Count; } }
        public bool IsSynchronized { get { return false; } }
        public object SyncRoot { get { return this; } }
        public void CopyTo(Array array, int index) { ((ICollection)Items).CopyTo(array, index); }
        IEnumerator IEnumerable.GetEnumerator() { return new RunningPackagesEnumerator(this); }
    }

    public abstract class DtsEnumerator : IEnumerator
    {
        private readonly DtsReadOnlyCollectionBase collection;
        private int at = -1;
        internal DtsEnumerator(DtsReadOnlyCollectionBase collection) { this.collection = collection; }
        object IEnumerator.Current { get { return collection.Items[at]; } }
        internal RunningPackage Here { get { return collection.Items[at]; } }
        public bool MoveNext() { Estate.Fault("enumerate"); return ++at < collection.Items.Count; }
        public void Reset() { at = -1; }
    }

    public sealed class RunningPackagesEnumerator : DtsEnumerator
    {
        internal RunningPackagesEnumerator(DtsReadOnlyCollectionBase collection) : base(collection) { }
        public RunningPackage Current { get { return Here; } }
    }

    // A snapshot: it does not change when packages start or end. No public indexer.
    public class RunningPackages : DtsReadOnlyCollectionBase
    {
        public RunningPackagesEnumerator GetEnumerator() { return new RunningPackagesEnumerator(this); }
    }

    public sealed class RunningPackage : DtsObject
    {
        private readonly string[] row;
        internal RunningPackage(string[] row) { this.row = row; }

        public Guid InstanceID { get { Estate.Fault("InstanceID"); return new Guid(row[0]); } }
        public Guid PackageID { get { Estate.Fault("PackageID"); return new Guid(row[1]); } }
        public string PackageName { get { return Estate.Fault("PackageName") ? null : row[2]; } }
        public string PackageDescription { get { return Estate.Fault("PackageDescription") ? null : row[3]; } }
        public string UserName { get { return Estate.Fault("UserName") ? null : row[4]; } }
        public DateTime ExecutionStartTime
        {
            get
            {
                Estate.Fault("ExecutionStartTime");
                DateTimeKind kind = Estate.Asks("ExecutionStartTime utc") ? DateTimeKind.Utc : DateTimeKind.Unspecified;
                return new DateTime(long.Parse(row[5], CultureInfo.InvariantCulture), kind);
            }
        }
        public int ExecutionDuration
        {
            get { Estate.Fault("ExecutionDuration"); return int.Parse(row[6], CultureInfo.InvariantCulture); }
        }

        public void Stop()
        {
            Estate.Fault("stop");
            Estate.Stop(row[0], int.Parse(row[7], CultureInfo.InvariantCulture));
            Estate.Fault("stopped");
        }
    }

    public class Application : DtsObject
    {
        public Application() { Estate.Fault("ctor"); }

        public RunningPackages GetRunningPackages(string server)
        {
            Estate.Fault("list");
            string name = server ?? "";
            bool here = name == "." || name.Equals("localhost", StringComparison.OrdinalIgnoreCase)
                || name.Equals(Environment.MachineName, StringComparison.OrdinalIgnoreCase);
            if (!here)
            {
                throw new DtsRuntimeException(
                    "Connecting to the Integration Services service on the computer \"" + name + "\" failed.",
                    unchecked((int)0xC00160AA));
            }
            return Estate.Running();
        }
    }

    internal static class Estate
    {
        [DllImport("libc", EntryPoint = "kill")]
        private static extern int Kill(int pid, int signal);

        private static string Folder { get { return Environment.GetEnvironmentVariable("SSIS_TEST_ESTATE"); } }

        internal static RunningPackages Running()
        {
            RunningPackages running = new RunningPackages();
            string path = Path.Combine(Folder, "packages.tsv");
            if (!File.Exists(path)) { return running; }
            foreach (string line in File.ReadAllLines(path))
            {
                string[] row = line.Split('\t');
                if (row.Length < 8) { continue; }
                for (int i = 0; i < row.Length; i++) { row[i] = row[i].Replace("\\n", "\n").Replace("\\t", "\t").Replace("\\d800", "\ud800"); }
                int pid = int.Parse(row[7], CultureInfo.InvariantCulture);
                if (pid == 0 || Lives(pid)) { running.Items.Add(new RunningPackage(row)); }
            }
            return running;
        }

        private static bool Lives(int pid)
        {
            try
            {
                string stat = File.ReadAllText("/proc/" + pid + "/stat");
                return stat[stat.LastIndexOf(')') + 2] != 'Z';
            }
            catch (IOException) { return false; }
        }

        internal static void Stop(string instance, int pid)
        {
            File.AppendAllText(Path.Combine(Folder, "stops.log"), instance + "\n");
            if (pid != 0) { Kill(pid, 15); }
        }

        private static string[] faults = new string[0];

        internal static bool Asks(string line) { return Array.IndexOf(faults, line) >= 0; }

        // Does what faults.txt asks of this member; true where its value is to be null.
        internal static bool Fault(string member)
        {
            if (member == "ctor" || member == "list" || member == "stop")
            {
                string path = Path.Combine(Folder, "faults.txt");
                faults = File.Exists(path) ? File.ReadAllLines(path) : new string[0];
            }
            bool isNull = false;
            foreach (string line in faults)
            {
                string[] words = line.Split(' ');
                if (words[0] != member) { continue; }
                switch (words[1])
                {
                    case "delay":
                        // So that a test knows that the call has come as far as this.
                        File.WriteAllText(Path.Combine(Folder, member + ".hangs"), "");
                        Thread.Sleep((int)(1000 * double.Parse(words[2], CultureInfo.InvariantCulture)));
                        break;
                    case "utc": break;
                    case "null": isNull = true; break;
                    case "throw": throw new COMException("a COM error of the test", Code(words[2]));
                    case "dtsthrow": throw new DtsRuntimeException("an SSIS error of the test", Code(words[2]));
                    case "denied": throw new UnauthorizedAccessException("access is denied (test)");
                    case "notfound": throw new FileNotFoundException("a file of the test is not there");
                    case "crash": Environment.FailFast("a crash of the test"); break;
                    case "junk": Console.Out.Write("junk from managed code\n{\"id\":\n"); Console.Out.Flush(); break;
                    default: throw new InvalidOperationException("unknown fault " + line);
                }
            }
            return isNull;
        }

        private static int Code(string text)
        {
            return unchecked((int)uint.Parse(text.Substring(2), NumberStyles.HexNumber, CultureInfo.InvariantCulture));
        }
    }
}
